"""The plan: everything that can be wrong before an engine starts (driver, laptop, submitter).

The plan combines the survey of the input with each route's model and the model's placement on the
hardware. From these the plan derives the units and the fingerprint. The plan starts nothing, writes
no output and needs neither Ray nor vLLM. The caller tells the plan which hardware there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gemma_batch.committing.manifest import MODEL_WEIGHTS, Fingerprint, fingerprint
from gemma_batch.engines.base import engine_class
from gemma_batch.errors import InputError, PlacementError, SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.absolute import absolute
from gemma_batch.planning.answer_files import with_definitions
from gemma_batch.planning.asking import all_sampling, args_of, asked_of, check_asked, check_shape
from gemma_batch.planning.cut import cut, rows_per_unit
from gemma_batch.planning.input_options import option_fields
from gemma_batch.planning.model_look import end_of_turn, model_of, result_token
from gemma_batch.planning.route_plan import (
    RoutePlan,
    devices_of,
    engine_config,
    placed_route,
    route_fields,
    unused_fields,
)
from gemma_batch.planning.row_wishes import as_recorded, open_wishes, with_wishes
from gemma_batch.planning.smallest import shape_notes
from gemma_batch.planning.survey import Survey, survey
from gemma_batch.planning.unreadable import Unreadable
from gemma_batch.prompts.rendered import kinds_of
from gemma_batch.spec import JobSpec, Route
from gemma_batch.storage.fs import is_s3
from gemma_batch.storage.landmarks import Landmarks, folder_digest, input_landmarks
from gemma_batch.storage.models import is_hub_id
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.row_policy import RowPolicy
from gemma_batch.units.unit import Shard, Unit

# Tokens of prompt and answer. Few jobs need more. A spec asks for longer documents explicitly,
# because memory profile, CUDA graphs and the number of sequences all follow from this length.
DEFAULT_MODEL_LEN = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job that can be started. `notes` are sentences for people.

    `wishes` are fields of the fingerprint that the spec leaves to the sample (`row_wishes.py`).
    `stamp` is what this start put into the output (see `storage/landmarks.py`), "" before that and
    for an output in s3://.
    """

    spec: JobSpec
    survey: Survey
    routes: tuple[RoutePlan, ...]
    notes: tuple[str, ...] = ()
    wishes: frozenset[str] = frozenset()
    stamp: str = ""

    def placed(self, hardware: Hardware, prompt_tokens: Mapping[str, float] | None = None) -> Plan:
        """The same plan with every route placed. Raises `PlacementError`.

        `prompt_tokens` is the mean prompt of each sampled route, by the route's name.
        """
        known = prompt_tokens or {}
        routes = tuple(
            placed_route(self.spec, route, hardware, known.get(route.route.name))
            for route in self.routes
        )
        unused = [note for route in routes for note in unused_fields(route)]
        return replace(self, routes=routes, notes=tuple(dict.fromkeys([*self.notes, *unused])))

    def units(
        self, replicas: int = 1, say: Callable[[str], None] = lambda line: None
    ) -> list[Unit]:
        """Cut the input into units, for `replicas` engines.

        Units are small at both ends of the input, unless `policy.unit_rows` is set. Reads the
        footers of Parquet files, and files of other formats whole. `say` gets a sentence about
        files that cannot be read and that the survey did not see. Raises `InputError` when they are
        too many (see `planning/unreadable.py`).
        """
        slowest = min(route.rows_per_second for route in self.routes)
        unreadable = Unreadable(len(self.survey.shards))
        units = cut(
            self.survey.shards,
            self.survey.router,
            max_rows=rows_per_unit(self.spec.policy, slowest),
            max_bytes=self.spec.policy.unit_bytes,
            replicas=replicas if self.spec.policy.unit_rows is None else None,
            in_flight=max(route.in_flight for route in self.routes),
            unreadable=unreadable,
        )
        if unreadable.numbers != self.survey.unreadable:
            for note in unreadable.notes:
                say(note)
        return units

    def fingerprint(self) -> Fingerprint:
        """Everything that can change a result, by the names of the spec's fields."""
        spec = self.spec
        fields: dict[str, Any] = {
            "input.id": self.survey.id_column,
            "output.keep": _keep_fields(spec.output.pairs),
            **option_fields(self.survey.shards[0].options),
            # Older outputs do not have the field `last_answer`, and did what "fail" does.
            **{
                f"prompt.{k}": v
                for k, v in self.survey.prompt.model_dump().items()
                if (k, v) != ("last_answer", "fail")
            },
            **{f"sampling.{k}": v for k, v in spec.sampling.model_dump(mode="json").items()},
        }
        if spec.input.schema:  # older manifests lack the field
            fields["input.schema"] = dict(spec.input.schema)
        fields.update(asked_of(spec).fields())
        for plan in self.routes:
            where = f"routes.{plan.route.name}" if spec.routes else ""
            fields.update(route_fields(plan, f"{where}." if where else ""))
        if spec.routes:
            fields["routes"] = [route.name for route in spec.routes]
        return fingerprint(fields, self.survey.inputs)

    def as_recorded(self, fields: Mapping[str, Any]) -> Plan:
        """The same plan with the `wishes` that an earlier start recorded in these fields."""
        spec, survey = as_recorded(self.spec, self.survey, self.wishes, fields)
        return replace(self, spec=spec, survey=survey)

    @property
    def unknown(self) -> set[str]:
        """The fields of the fingerprint that are not known without a model's files or a run."""
        return {*self.wishes} | {
            f"routes.{plan.route.name}.{name}" if self.spec.routes else name
            for plan in self.routes
            if plan.files is None
            for name in ("revision", "model files", MODEL_WEIGHTS, "end of turn")
        }

    def job(self, plan: RoutePlan, *, cpu_threads: int | None = None) -> RouteJob:
        """The data that the tasks and actors of one route need. The route must be placed.

        `cpu_threads` is an engine's share of a CPU node's cores (None: all cores).
        """
        spec, policy = self.spec, self.spec.policy
        assert plan.placement is not None
        asked = asked_of(spec, plan.card)
        sampling = all_sampling(spec, asked)
        return RouteJob(
            output=spec.output.path,
            route=plan.route.name,
            model=plan.route.model,
            files=plan.files,
            prompt=self.survey.prompt,
            id_column=self.survey.id_column,
            columns=self.survey.columns,
            keep_schema=self.survey.keep_schema,
            max_model_len=plan.max_model_len,
            vocab=plan.card.vocab,
            sampling=sampling,
            engine=engine_config(plan, plan.placement, sampling, spec, asked, cpu_threads),
            policy=RowPolicy(
                max_attempts=policy.max_attempts,
                deadline=policy.row_deadline,
                hang=policy.engine_hang_timeout,
            ),
            in_flight=plan.in_flight,
            asked=asked,
            storage_patience=policy.storage_patience,
            order=plan.resources.order,
            name=spec.name,
            devices=devices_of(plan.placement),
            price=plan.resources.price_per_hour,
            landmarks=self.landmarks(plan),
            reads_all=self.survey.reads_all,
        )

    def landmarks(self, plan: RoutePlan) -> Landmarks:
        """What a node sees that shares the local paths of a route with this machine."""
        model = plan.route.model
        model = "" if is_hub_id(model) or is_s3(model) else model
        return Landmarks(
            output=self.spec.output.path if self.stamp else "",
            stamp=self.stamp,
            inputs=input_landmarks([(shard.url, shard.etag) for shard in self.survey.inputs]),
            model=model,
            digest=folder_digest(model) if model else "",
        )


def _keep_fields(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    # Older versions could not rename: a column that keeps its name is written as they wrote it.
    return [name if name == column else {name: column} for name, column in pairs]


def make_plan(
    spec: JobSpec,
    *,
    need_files: bool = True,
    known: Sequence[Shard] = (),
    only_known: bool = False,
) -> Plan:
    """Plan a job as far as possible without the hardware.

    `known` are the input files that the output has already: only the others are planned, if there
    are any. With `only_known`, the others are left out. With `need_files` False, a catalog model
    whose files cannot be reached is planned from the catalog alone. The spec of the plan has
    absolute paths. Raises a `UserError` that says how to change the spec or the input.
    """
    spec = with_definitions(absolute(spec))
    check_shape(spec)
    wishes = open_wishes(spec)
    spec, looked = with_wishes(spec, survey(spec, known, only_known=only_known), wishes)
    notes = list(looked.notes)
    routes = tuple(
        _plan_route(spec, route, need_files=need_files, notes=notes)
        for route in spec.effective_routes
    )
    said = tuple(dict.fromkeys(notes))
    return Plan(spec=spec, survey=looked, routes=routes, notes=said, wishes=wishes)


def _plan_route(spec: JobSpec, route: Route, *, need_files: bool, notes: list[str]) -> RoutePlan:
    resources = spec.resources_of(route)
    engine = engine_class(resources.engine)
    engine.check_args(resources.engine_args)
    if unknown := sorted(kinds_of(spec.prompt) - engine.takes):
        raise SpecError(
            f"resources.engine: {resources.engine!r} takes no prompts of the kind {unknown[0]!r}, "
            f"which `prompt` asks for (it takes {', '.join(sorted(engine.takes))})"
        )
    card, files, unreached = model_of(route, need_files=need_files, notes=notes)
    asked = asked_of(spec, card)
    notes += check_asked(spec, asked, card, resources)
    sampling, args = all_sampling(spec, asked), args_of(resources, asked)
    try:
        engine.check_sampling(sampling, job=sampling, args=args, vocab=card.vocab)
    except ValueError as err:
        raise SpecError(f"sampling.{err} (model {route.model!r})") from None
    notes += shape_notes(spec, sampling.get("structured_outputs", {}), files)
    max_model_len = resources.max_model_len or min(card.context, DEFAULT_MODEL_LEN)
    if max_model_len > card.context:
        raise PlacementError(
            f"resources.max_model_len={max_model_len} is above the context of {route.model!r}, "
            f"{card.context} tokens"
        )
    if spec.sampling.max_tokens >= max_model_len:
        raise PlacementError(
            f"sampling.max_tokens={spec.sampling.max_tokens} leaves no room for a prompt in "
            f"max_model_len={max_model_len}: lower it, or raise resources.max_model_len "
            f"(the model's context is {card.context})"
        )
    return RoutePlan(
        route=route,
        resources=resources,
        card=card,
        files=files,
        unreached=unreached,
        max_model_len=max_model_len,
        end_of_turn=end_of_turn(route.model, files, notes) if files else None,
        result_token=result_token(files, card.calls) if files and asked.tools else None,
    )


def check_not_empty(units: Sequence[Unit]) -> None:
    """Raise `InputError` when there is not a single row to run."""
    if not units:
        raise InputError("the input has files but not a single row: nothing was started")


def rows_by_route(units: Sequence[Unit]) -> dict[str, int]:
    """The number of planned rows of each route, by the route's name."""
    totals: dict[str, int] = {}
    for unit in units:
        totals[unit.route] = totals.get(unit.route, 0) + unit.expected
    return totals


def units_by_route(units: Sequence[Unit]) -> dict[str, int]:
    """The number of units of each route, by the route's name: no route uses more engines."""
    return dict(Counter(unit.route for unit in units))
