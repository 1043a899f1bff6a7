"""What a plan asks of the form of answers, and of the engine for their sake (driver, laptop)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemma_batch.answering.shapes import shape_of
from gemma_batch.engines.base import REASONING, engine_class
from gemma_batch.errors import SpecError
from gemma_batch.family.card import ModelCard
from gemma_batch.spec import JobSpec, Resources
from gemma_batch.units.asked import Asked

# Log probabilities before temperature, top_k and the like, and after the mask of a shape.
RAW = "raw_logprobs"


def asked_of(spec: JobSpec, card: ModelCard | None = None) -> Asked:
    """What a job asks of the form of its answers. The columns are the same for every card."""
    asked = Asked(
        answer=spec.answer,
        tools=spec.tools,
        thinking=spec.thinking,
        keep_marks=not spec.sampling.skip_special_tokens,
    )
    if card is None:
        return asked
    return replace(asked, generation=card.generation, calls=card.calls, thinks=card.thinks)


def check_asked(spec: JobSpec, asked: Asked, card: ModelCard, resources: Resources) -> list[str]:
    """Raise `SpecError` for a model or an engine that cannot answer as it is asked to.

    Returns notes for people.
    """
    check_confidence(spec, resources)
    if asked.thinking and not asked.thinks:
        raise SpecError(
            f"thinking: the model {card.id!r} cannot think before it answers (Gemma 4 can): "
            "leave `thinking` out"
        )
    field = "answer" if spec.tools is None else "tools"
    structure = all_sampling(spec, asked).get("structured_outputs", {})
    try:
        return engine_class(resources.engine).check_structure(structure)
    except ValueError as err:
        raise SpecError(f"{field}.{err} (model {card.id!r})") from None


def args_of(resources: Resources, asked: Asked) -> dict[str, Any]:
    """The engine's arguments: those of the spec, and those that the job's answers need."""
    if not asked.thinking:
        return dict(resources.engine_args)
    return {REASONING: asked.generation, **resources.engine_args}


def check_shape(spec: JobSpec) -> None:
    """Raise `SpecError` for a schema whose values have no columns."""
    try:
        shape_of(spec.sampling.engine_params(), asked_of(spec))
    except ValueError as err:
        raise SpecError(f"answer.schema: {err}") from None


def check_confidence(spec: JobSpec, resources: Resources) -> None:
    """Raise `SpecError` where log probabilities would not be those that `confidence` is made of."""
    mode = resources.engine_args.get("logprobs_mode", RAW)
    if spec.answer.confidence and mode != RAW:
        raise SpecError(
            f"resources.engine_args.logprobs_mode: {mode!r} gives numbers that `answer.confidence` "
            f"cannot use: leave it out, or set {RAW!r}"
        )


def all_sampling(spec: JobSpec, asked: Asked) -> dict[str, Any]:
    """The job's sampling parameters, and those that the shape of its answers needs."""
    sampling = spec.sampling.engine_params()
    return {**sampling, **shape_of(sampling, asked).asks()}
