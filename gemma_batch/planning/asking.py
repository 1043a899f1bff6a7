"""What a plan asks of the form of answers, and of the engine for their sake (driver, laptop)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gemma_batch.answering.shapes import shape_of
from gemma_batch.family.card import ModelCard
from gemma_batch.spec import JobSpec
from gemma_batch.units.asked import Asked


def asked_of(spec: JobSpec, card: ModelCard | None = None) -> Asked:
    """What a job asks of the form of its answers. The columns are the same for every card."""
    asked = Asked(answer=spec.answer, tools=spec.tools, thinking=spec.thinking)
    return asked if card is None else replace(asked, generation=card.generation)


def all_sampling(spec: JobSpec, asked: Asked) -> dict[str, Any]:
    """The job's sampling parameters, and those that the shape of its answers needs."""
    sampling = spec.sampling.engine_params()
    return {**sampling, **shape_of(sampling, asked).asks()}
