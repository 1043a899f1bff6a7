"""Shapes: which readers a job's answers go through, by its spec (driver and GPU actor)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_batch.answering.answers import AnswerShape, Reader
from gemma_batch.answering.labels import Choice
from gemma_batch.spec.sampling import DEFAULT_MAX_TOKENS
from gemma_batch.units.asked import Asked


def shape_of(sampling: Mapping[str, Any], asked: Asked) -> AnswerShape:
    """The shape of the answers in a job with these sampling parameters.

    The readers stand in the order in which they read.
    """
    readers: list[Reader] = []
    if asked.answer.choice is not None:
        readers.append(Choice(asked.answer.choice))
    return AnswerShape(
        readers,
        samples=int(sampling.get("n", 1)),
        logprobs=sampling.get("logprobs") is not None,
        max_tokens=int(sampling.get("max_tokens", DEFAULT_MAX_TOKENS)),
    )
