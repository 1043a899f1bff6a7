"""The nouns of one row's way: Row, Request, Completion, Failure.

They know nothing about where a row came from or which engine answers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(slots=True)
class Failure:
    """Why a row has no answer. `seconds` is wall time spent on it."""

    code: str
    message: str
    attempts: int = 0
    seconds: float = 0.0


class Origin(NamedTuple):
    """Where a row of a staged shard came from: input shard (number and URL) and row, 0-based."""

    shard: int
    url: str
    row: int


@dataclass(slots=True)
class Row:
    """One input row: `values`, or the `failure` that reading it ended in; `number` is 0-based.

    `origin` is its place in the input when it is read from a staged copy.
    """

    number: int
    values: dict[str, Any] | None
    failure: Failure | None = None
    origin: Origin | None = None


@dataclass(slots=True)
class Request:
    """One row rendered to token ids; `sampling` holds what this row overrides."""

    number: int
    token_ids: list[int]
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Completion:
    """The answer to one row: one entry in `outputs` and `finish_reasons` per sample (`n`)."""

    outputs: list[str]
    finish_reasons: list[str]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0
    logprobs: str | None = None


Outcome = Completion | Failure
