"""The nouns of one row's way: Row, Prompt, Request, Completion, Refusal, Failure.

They know nothing about where a row came from or which engine answers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol


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


class Prompt(Protocol):
    """A rendered prompt as one value.

    Only the engine that answers a prompt looks into it. The feed, its order and the payload ask
    the methods below, so that a prompt with pictures or recordings needs no change in them.
    The kinds of prompt are listed in `prompts/rendered.py`.
    """

    kind: ClassVar[str]

    @property
    def tokens(self) -> int:
        """How many tokens of the model's context it takes."""
        ...

    def sort_key(self) -> bytes:
        """Bytes by which prompts that begin alike become neighbours when they are sorted."""
        ...

    def encode(self) -> bytes:
        """The prompt as bytes, for its way to another process."""
        ...


@dataclass(slots=True)
class Request:
    """One row rendered; `sampling` holds the sampling parameters that this row overrides."""

    number: int
    prompt: Prompt
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a completion is no answer of the shape that was asked for.

    `code` is the failure code that the row gets; with `again` another attempt may give an answer.
    """

    code: str
    message: str
    again: bool = False


Outcome = Completion | Failure
