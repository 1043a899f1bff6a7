"""Outputs without an engine: plans, prepared units and commits are real, answers are the test's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.generations import settle_pass
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.manifest import Manifest, create_manifest
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.passes import Failed, derive
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Failure, Outcome, Request
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import Unit

HERE = Hardware(gpu=None, gpus=0, gpus_per_node=0, cpus=2, cpus_per_node=2)
Answer = Callable[[Request], Outcome]


def says(text: str, tokens: int = 3) -> Completion:
    """An answer of one sample."""
    return Completion([text], ["stop"], tokens, tokens)


@dataclass
class Output:
    """One output, as a run makes it unit by unit."""

    store: Store
    plan: Plan
    manifest: Manifest
    units: list[Unit]
    preparers: dict[str, Preparer] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.store.url

    def commit(self, unit: Unit, answer: Answer) -> None:
        """Prepare and commit one unit; `answer` gives the outcome of each request."""
        route = next(one for one in self.plan.routes if one.route.name == unit.route)
        job = replace(self.plan.job(route), run=self.manifest.run)
        preparer = self.preparers.setdefault(unit.route, Preparer(job))
        prepared = preparer.prepare(self.manifest.by_number, unit)
        outcomes: dict[int, Outcome] = dict(prepared.failures)
        outcomes |= {request.number: answer(request) for request in prepared.requests}
        commit_unit(self.store, job, prepared, outcomes, {"started": 1.0})

    def retry(self, answer: Answer, *codes: str) -> None:
        """A pass over the failed rows with one of the codes."""
        receipts = Ledger(self.store).receipts()
        generation = 1 + max(key.generation for key in receipts)
        work = derive(self.store, self.units, receipts, Failed(codes), generation)
        for unit in settle_pass(self.store, generation, work).units:
            self.commit(unit, answer)


def start(spec: dict[str, Any]) -> Output:
    """An output with a manifest and no part yet."""
    plan = make_plan(JobSpec.from_dict(spec)).placed(HERE)
    store = open_store(plan.spec.output.path)
    manifest = create_manifest(
        store,
        name=plan.spec.name,
        fingerprint=plan.fingerprint(),
        shards=plan.survey.shards,
        units=plan.units(),
        spec=plan.spec.to_dict(),
        facts={},
    )
    return Output(store, plan, manifest, manifest.units(store))


def job_spec(folder: Path, model: str, **more: Any) -> dict[str, Any]:
    """A job over the JSON lines in `folder/in`, with units of ten rows."""
    return {
        "name": "tickets",
        "input": {"path": str(folder / "in" / "*.jsonl"), "id": "id"},
        "prompt": {"system": "Be brief.", "user": "Say {{ doc }}"},
        "model": model,
        "sampling": {"max_tokens": 16, "temperature": 0},
        "resources": {"engine": "echo", "max_model_len": 512},
        "policy": {"unit_rows": 10},
        "output": {"path": str(folder / "out"), "keep": ["customer"]},
        **more,
    }


def write_rows(folder: Path, rows: Sequence[dict[str, Any]], name: str = "a.jsonl") -> Path:
    """An input file of JSON lines."""
    from gemma_batch.storage.keep import as_json

    (folder / "in").mkdir(exist_ok=True)
    path = folder / "in" / name
    path.write_text("".join(as_json(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tickets(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows whose document names their number."""
    return [
        {"id": f"t{i}", "doc": f"text {i}", "customer": f"c{i % 3}"}
        for i in range(start, start + count)
    ]


def failing(code: str, output: str | None = None) -> Failure:
    """A failure of a row that an engine was asked."""
    return Failure(code, f"because of {code}", 2, 1.5, output)
