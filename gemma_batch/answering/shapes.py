"""Shapes: which readers a job's answers go through, by its spec (driver and GPU actor)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_batch.answering.answers import AnswerShape, Reader
from gemma_batch.answering.calls import Calls
from gemma_batch.answering.confidence import Confidence
from gemma_batch.answering.row_answers import RowAnswers
from gemma_batch.answering.row_calls import RowCalls
from gemma_batch.answering.thoughts import Thoughts, Unmarked
from gemma_batch.answering.values import reader_of
from gemma_batch.spec.sampling import DEFAULT_MAX_TOKENS
from gemma_batch.units.asked import Asked


def shape_of(sampling: Mapping[str, Any], asked: Asked) -> AnswerShape:
    """The shape of the answers in a job with these sampling parameters.

    The readers stand in the order in which they read.
    """
    readers: list[Reader] = []
    if asked.thinking or asked.thinks:
        readers.append(Thoughts(column=asked.thinking, opened=asked.opens_thought))
    if asked.tools is not None:
        own = asked.tools.rows
        readers.append(RowCalls(asked.calls) if own else Calls(asked.tools, asked.calls))
    if asked.shows_marks and not asked.keep_marks:
        readers.append(Unmarked())
    confident = asked.answer.confidence
    if confident:
        readers.append(Confidence(asked.answer))
    if asked.answer.rows:
        readers.append(RowAnswers())
    elif (reader := reader_of(asked.answer)) is not None:
        readers.append(reader)
    return AnswerShape(
        readers,
        samples=int(sampling.get("n", 1)),
        # With `confidence`, log probabilities are asked for, but make no column of their own.
        logprobs=sampling.get("logprobs") is not None and not confident,
        max_tokens=int(sampling.get("max_tokens", DEFAULT_MAX_TOKENS)),
    )
