"""A try: asks a random sample of a job's rows, as a run of its own inside of the job's output.

The try's folder is an output like any other (see `committing.taken.py`), so commits, resumes and
failures are those of a run. The job's own folders stay as they are. A second try of the same
sample finds every row committed and starts nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from gemma_batch.cluster.address import check_address
from gemma_batch.committing.kept_types import pack_types
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.manifest import Manifest, check_same, create_manifest
from gemma_batch.committing.outlook import open_output, settled_run
from gemma_batch.committing.taken import FOLDER
from gemma_batch.driver.guard import leased
from gemma_batch.driver.lanes import Lane
from gemma_batch.driver.session import Session
from gemma_batch.errors import SpecError
from gemma_batch.family.hardware import Hardware, hardware_from
from gemma_batch.planning.draw import Drawn, draw, sample_units
from gemma_batch.planning.foresight import check_usable
from gemma_batch.planning.plan import Plan, check_not_empty, make_plan, rows_by_route
from gemma_batch.planning.pool import not_more_than
from gemma_batch.planning.sample import sample_routes
from gemma_batch.planning.settling import unsettled, with_kept_types
from gemma_batch.planning.unreadable import Unreadable
from gemma_batch.prompts.prefixes import WORTH_SHARE
from gemma_batch.reporting.agreement import Agreement, compare
from gemma_batch.reporting.progress import LogProgress, Progress, Snapshot
from gemma_batch.reporting.tried import Trial, make_trial
from gemma_batch.reporting.tried_rows import tried_rows
from gemma_batch.spec import JobSpec
from gemma_batch.spec.policy import Alerts
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import Unit

MOST_MODELS = 4
DIGITS = 16  # of the fingerprint, in the name of a try's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A try that was asked. `store` is its folder.

    `whole` is the plan of the whole job, placed on `hardware`. `fresh` says that engines worked
    now; otherwise every row was committed before.
    """

    whole: Plan
    store: Store
    manifest: Manifest
    units: tuple[Unit, ...]
    hardware: Hardware
    fresh: bool


def ask(
    spec: JobSpec,
    rows: int,
    seed: int,
    *,
    address: str | None,
    show: Progress,
    verbose: bool,
    shared: contextlib.ExitStack | None = None,
) -> Asked:
    """Ask `rows` random rows of the job, as far as they are not committed by an earlier try.

    A connection to Ray is left with `shared`, if that is given. Raises the errors of `run`.
    """
    show.update(Snapshot(phase="planning"))
    started = time.time()
    whole = _as_the_run(make_plan(spec), show)
    for note in whole.notes:
        show.say(note)
    name = f"{whole.fingerprint().digest[:DIGITS]}-{rows}-{seed}"
    url = f"{whole.spec.output.path.rstrip('/')}/{FOLDER}/{name}"
    plan = _within(whole, url)
    store = open_output(url, writes=True)
    manifest = settled_run(store)
    if manifest is not None:
        check_same(manifest, plan.fingerprint(), store.url)
    fresh = manifest is None or bool(Ledger(store).remaining(manifest.units(store)))
    if fresh:
        with leased(store, show) as lost:
            session = TrialSession(plan, store, show, lost, address=address, verbose=verbose)
            session.shared = shared
            try:
                if manifest is None:
                    manifest = _open(session, rows, seed)
                units = manifest.units(store)
                session.finish(manifest, units, units, started)
            finally:
                session.close()
    assert manifest is not None
    hardware = hardware_from(manifest.facts["trial"]["hardware"])
    return Asked(
        whole=whole.placed(hardware),
        store=store,
        manifest=manifest,
        units=tuple(manifest.units(store)),
        hardware=hardware,
        fresh=fresh,
    )


def _as_the_run(plan: Plan, show: Progress) -> Plan:
    """The plan with what a run in the same output has recorded, so that both are of one job."""
    manifest = settled_run(open_output(plan.spec.output.path, writes=True))
    if manifest is None:
        return plan
    recorded = plan.as_recorded(manifest.fingerprint.fields)
    # Files that were added since are no other job: the input may grow.
    was, now = (replace(one, inputs={}) for one in (manifest.fingerprint, recorded.fingerprint()))
    if was.differences(now):
        show.say(
            f"{plan.spec.output.path!r} holds a run of another configuration: this try "
            "leaves it as it is, and a run of this job needs another output.path"
        )
        return plan
    return recorded


def _within(whole: Plan, url: str) -> Plan:
    """The plan of a try at `url`.

    A file of text tells the types of its columns when all its rows are read, which would take
    longer than the try. Until then, a kept column of such a type is text, which holds every value.
    """
    spec = whole.spec
    data = spec.model_copy(
        update={
            "output": spec.output.model_copy(update={"path": url}),
            "policy": spec.policy.model_copy(update={"alerts": Alerts()}),
        }
    )
    texts = dict.fromkeys(unsettled(whole.survey), pa.string())
    return replace(whole, spec=data, survey=with_kept_types(whole.survey, data, texts))


def _open(session: TrialSession, rows: int, seed: int) -> Manifest:
    """Draw the sample, cut it into units and put the manifest of the try."""
    samples = sample_routes(session.plan)
    check_usable(samples, session.plan.spec.policy)
    hardware = session.place({name: sample.mean_tokens for name, sample in samples.items()})
    plan = session.plan
    session.show.update(Snapshot(phase="drawing the sample"))
    unreadable = Unreadable(len(plan.survey.shards))
    drawn: Drawn = draw(plan.survey.shards, rows, seed, unreadable)
    for note in unreadable.notes:
        session.show.say(note)
    units = sample_units(plan.survey.shards, drawn, plan.survey.router, plan.spec.policy)
    check_not_empty(units)
    facts = {
        "rows_by_route": rows_by_route(units),
        "predicted": None,
        "sort": [name for name, sample in samples.items() if sample.gain >= WORTH_SHARE],
        "staged": {},
        "trial": {
            "rows": rows,
            "seed": seed,
            "population": asdict(drawn.population),
            "hardware": asdict(hardware),
            "gain": {name: round(sample.gain, 4) for name, sample in samples.items()},
        },
    }
    manifest = create_manifest(
        session.store,
        name=plan.spec.name,
        fingerprint=plan.fingerprint(),
        shards=plan.survey.shards,
        units=units,
        spec=plan.spec.to_dict(),
        facts=facts,
        kept=pack_types(plan.survey.kept_types),
    )
    check_same(manifest, plan.fingerprint(), plan.spec.output.path)
    return manifest


class TrialSession(Session):
    """The session of a try: one GPU's engines per route, and receipts with the times of rows.

    With `shared`, the connection to Ray stays until `shared` ends, for the next session.
    """

    shared: contextlib.ExitStack | None = None

    def place(self, prompt_tokens: Mapping[str, float] | None = None) -> Hardware:
        """As in a run; see the class."""
        hardware = super().place(prompt_tokens)
        if self.shared is not None:
            from gemma_batch.cluster import membership

            self.shared.enter_context(membership.joined(self._address, verbose=self._verbose))
        return hardware

    def _lanes(
        self, hardware: Hardware, remaining: Sequence[Unit], manifest: Manifest
    ) -> list[Lane]:
        lanes = super()._lanes(hardware, remaining, manifest)
        for lane in lanes:
            assert lane.plan.placement is not None
            if lane.pool.num_gpus:
                lane.pool = not_more_than(lane.pool, lane.plan.placement.engines_per_gpu)
            lane.job = replace(lane.job, timed=True)
        return lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The result of `try_`: a trial for each model, and how each two of the models agree."""

    trials: tuple[Trial, ...]
    agreements: tuple[Agreement, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether no more rows are to be expected to fail than `policy.max_failed` allows."""
        return all(trial.passes for trial in self.trials)

    def to_json(self) -> str:
        """The result as the JSON that `try --json` prints."""
        data = {
            "passes": self.passes,
            "trials": [trial.to_dict() for trial in self.trials],
            "agreements": [one.to_dict() for one in self.agreements],
        }
        return json.dumps(data, indent=1, ensure_ascii=False, default=str)


def try_(
    spec: JobSpec,
    n: int = 200,
    *,
    models: Sequence[str] = (),
    seed: int = 0,
    address: str | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Tried:
    """Ask `n` random rows of a job, and tell what the whole job will be like.

    `models` are asked in place of the spec's model, one after the other. The same `seed` draws the
    same rows. The answers stay in the job's output, in a folder of `_run/tries/`; a try that was
    made before is told again without an engine. Raises the errors of `run`.
    """
    if n < 1:
        raise SpecError(f"a try needs at least 1 row, n is {n!r}")
    if len(models) > MOST_MODELS or len(set(models)) < len(models):
        raise SpecError(f"a try takes up to {MOST_MODELS} different models, not {list(models)!r}")
    check_address(address)
    show = progress or LogProgress(spec.policy.progress_seconds)
    trials = []
    with contextlib.ExitStack() as shared:
        for number, job in enumerate(_jobs(spec, models)):
            if len(models) > 1:
                show.say(f"model {number + 1} of {len(models)}: {job.model}")
            asked = ask(
                job, n, seed, address=address, show=show, verbose=verbose,
                shared=shared if len(models) > 1 else None,
            )  # fmt: skip
            show.update(Snapshot(phase="reading the answers"))
            trials.append(_told(asked))
    pairs = itertools.combinations(trials, 2)
    return Tried(trials=tuple(trials), agreements=tuple(compare(a, b) for a, b in pairs))


def _jobs(spec: JobSpec, models: Sequence[str]) -> list[JobSpec]:
    if not models:
        return [spec]
    if spec.routes:
        raise SpecError(
            f"--model {models[0]!r} takes the place of `model`, and this spec has `routes`: name "
            "the route's model, such as --set routes.0.model=..."
        )
    # A revision belongs to the model of the spec.
    return [
        spec if model == spec.model else spec.model_copy(update={"model": model, "revision": None})
        for model in models
    ]


def _told(asked: Asked) -> Trial:
    rows = tried_rows(asked.store, asked.manifest, asked.units)
    return make_trial(
        asked.whole,
        asked.manifest.facts["trial"],
        list(Ledger(asked.store).receipts().values()),
        rows,
        asked.hardware,
        folder=asked.store.url,
        fresh=asked.fresh,
    )
