"""RoutePlan: one route of a plan, its model and its place on the hardware (driver, laptop)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gemma_batch.committing.manifest import MODEL_WEIGHTS
from gemma_batch.engines.base import EngineConfig, answer_args, engine_class
from gemma_batch.family.card import ModelCard
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.placement import Placement
from gemma_batch.family.speed import rows_per_second
from gemma_batch.planning.asking import args_of
from gemma_batch.planning.neutral import NEUTRAL_RESOURCES
from gemma_batch.spec import JobSpec, Resources, Route
from gemma_batch.storage.models import ModelFiles
from gemma_batch.units.asked import Asked

QUANTIZATION = {"fp8": "fp8"}
ONLY_ON = {"GPU": ("engines_per_gpu", "gpu_memory_utilization"), "CPU": ("cpu_kv_cache_gib",)}
USUAL_PROMPT = 512  # tokens of a prompt, when there is no sample
FEED_FACTOR = 2.0  # requests in the engine, as a multiple of max_num_seqs (design: 1.5 to 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """One route's model and its placement.

    `files` is None when the model's files could not be reached, and `unreached` is then the error
    that a run would raise. `max_model_len` is in tokens.
    `end_of_turn` (text, id) is a stop token that the model's files forget (see `prompts/ending`).
    `result_token` is the id of the token that begins the result of a call, in a job with functions.
    `rows_per_second` is the expected speed of one engine, once the route is placed.
    """

    route: Route
    resources: Resources
    card: ModelCard
    files: ModelFiles | None
    max_model_len: int
    unreached: str | None = None
    end_of_turn: tuple[str, int] | None = None
    result_token: int | None = None
    placement: Placement | None = None
    rows_per_second: float = 1.0

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, besides those that the model's files name."""
        end = () if self.end_of_turn is None else (self.end_of_turn[1],)
        return end if self.result_token is None else (*end, self.result_token)

    @property
    def in_flight(self) -> int:
        """The number of requests that the feed keeps in an engine; 0 before the route is placed."""
        return int(self.placement.max_num_seqs * FEED_FACTOR) if self.placement else 0


def unused_fields(plan: RoutePlan) -> list[str]:
    """A sentence for each field that is set and means nothing where the engines are placed."""
    assert plan.placement is not None
    kind, other = ("CPU", "GPU") if plan.placement.gpu_memory_utilization == 0 else ("GPU", "CPU")
    return [
        f"resources.{name} is for engines on a {other} and changes nothing: those of "
        f"{plan.route.model!r} are on a {kind}"
        for name in ONLY_ON[other]
        if getattr(plan.resources, name) is not None
    ]


def devices_of(placement: Placement) -> float:
    """The number of GPUs that one engine holds; 1 for an engine on a CPU."""
    on_gpu = placement.gpu_memory_utilization > 0
    return placement.tensor_parallel / placement.engines_per_gpu if on_gpu else 1.0


def route_fields(plan: RoutePlan, prefix: str) -> dict[str, Any]:
    resources = plan.resources
    fields: dict[str, Any] = {
        f"{prefix}model": plan.route.model,
        f"{prefix}revision": plan.files.revision if plan.files else plan.route.revision,
        f"{prefix}model files": plan.files.digest if plan.files else None,
        f"{prefix}{MODEL_WEIGHTS}": plan.files.weights if plan.files else None,
        f"{prefix}resources.engine": resources.engine,
        f"{prefix}resources.max_model_len": plan.max_model_len,
        f"{prefix}resources.precision": resources.precision,
    }
    for name in Resources.model_fields.keys() - NEUTRAL_RESOURCES.keys():
        fields.setdefault(f"{prefix}resources.{name}", getattr(resources, name))
    if plan.end_of_turn is not None:
        fields[f"{prefix}end of turn"] = plan.end_of_turn[0]
    if plan.route.when is not None:
        fields[f"{prefix}when"] = plan.route.when
    for name, value in answer_args(resources.engine, resources.engine_args).items():
        fields[f"{prefix}resources.engine_args.{name}"] = value
    return fields


def engine_config(
    plan: RoutePlan,
    placement: Placement,
    sampling: dict[str, Any],
    spec: JobSpec,
    asked: Asked,
    cpu_threads: int | None,
) -> EngineConfig:
    resources = plan.resources
    on_gpu = placement.gpu_memory_utilization > 0
    return EngineConfig(
        engine=resources.engine,
        model=plan.route.model,
        revision=plan.files.revision if plan.files else plan.route.revision,
        files=plan.files,
        device="gpu" if on_gpu else "cpu",
        tensor_parallel=placement.tensor_parallel,
        engines_per_gpu=placement.engines_per_gpu,
        dtype=placement.dtype,
        quantization=QUANTIZATION.get(placement.precision),
        max_model_len=plan.max_model_len,
        max_num_seqs=placement.max_num_seqs,
        max_num_batched_tokens=placement.max_num_batched_tokens,
        gpu_memory_utilization=placement.gpu_memory_utilization if on_gpu else None,
        cpu_kv_cache_gib=resources.cpu_kv_cache_gib or placement.kv_gib,
        cpu_threads=cpu_threads,
        start_timeout=spec.policy.engine_start_timeout,
        fork_template=_forks(resources, on_gpu=on_gpu),
        sampling=sampling,
        stop_token_ids=plan.stop_token_ids,
        structured="structured_outputs" in sampling or asked.rows,
        token_logprobs=spec.answer.confidence,
        args=args_of(resources, asked),
    )


def _forks(resources: Resources, *, on_gpu: bool) -> bool:
    if resources.fork_template == "auto":
        return not on_gpu  # no run on a GPU with the template is on record yet
    return resources.fork_template == "on"


def placed_route(
    spec: JobSpec, plan: RoutePlan, hardware: Hardware, prompt_tokens: float | None
) -> RoutePlan:
    engine = engine_class(plan.resources.engine)
    placement = engine.place(plan.card, plan.resources, hardware, plan.max_model_len)
    guess = min(USUAL_PROMPT, plan.max_model_len - spec.sampling.max_tokens)
    speed = rows_per_second(
        plan.card,
        hardware.gpu if placement.gpu_memory_utilization else None,
        prompt_tokens=prompt_tokens or guess,
        output_tokens=spec.sampling.max_tokens,
        tensor_parallel=placement.tensor_parallel,
        precision=placement.precision,
        engines_per_gpu=placement.engines_per_gpu,
    )
    return replace(plan, placement=placement, rows_per_second=speed)
