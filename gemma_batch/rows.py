"""The data types of one row, in any process: Row, Prompt, Request, Completion, Refusal, Failure.

No type here knows which input format a row came from or which engine answers the row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol


@dataclass(slots=True)
class Failure:
    """Why a row has no answer. `seconds` is the wall time that was spent on the row.

    `output` is the model's text, where there is an answer without the shape that was asked for; of
    several samples, their texts as a JSON list. `refused_tokens` are the tokens of all such answers
    and their prompts. `began` and `ended` as in `Completion`.
    """

    code: str
    message: str
    attempts: int = 0
    seconds: float = 0.0
    output: str | None = None
    refused_tokens: int = 0
    began: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)


class Origin(NamedTuple):
    """The place in the input of a row of a staged shard, or of a unit of several shards.

    `shard` is the number of the input shard, `row` the 0-based number of the row in that shard.
    """

    shard: int
    url: str
    row: int


@dataclass(slots=True)
class Row:
    """One input row: its `values`, or the `failure` to read the row; `number` is 0-based.

    A row that is read from a staged shard, or with a unit of several shards, has an `origin`: its
    place in the input. `number` is then the number in the staged shard or in the unit.
    """

    number: int
    values: dict[str, Any] | None
    failure: Failure | None = None
    origin: Origin | None = None


class Prompt(Protocol):
    """A rendered prompt as one value.

    Only the engine that answers a prompt looks into the prompt. The feed, the row order and the
    payload only call the methods below, so that a prompt with pictures or recordings needs no
    change there. `prompts/rendered.py` lists the kinds of prompt.
    """

    kind: ClassVar[str]

    @property
    def tokens(self) -> int:
        """How many tokens of the model's context the prompt takes."""
        ...

    def sort_key(self) -> bytes:
        """Bytes to sort prompts by: prompts that begin alike become neighbours."""
        ...

    def encode(self) -> bytes:
        """The prompt as bytes, to send it to another process."""
        ...


class Own(NamedTuple):
    """What a row brings along beside its prompt, checked.

    `sampling` are the sampling parameters that it overrides. `form` is what it asks of the form of
    its answer, as plain data: `answer` and `tools`, with the fields of the spec's parts of these
    names, and `one_call` where an answer has at most one call. `tools` are its functions, as
    {name, description, parameters}, and `tool_choice` is "auto", "none" or "required". `enforced`
    says that the engine enforces the form.
    """

    sampling: dict[str, Any]
    form: dict[str, Any]
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"
    enforced: bool = False


@dataclass(slots=True)
class Request:
    """One row rendered. `sampling` and `form` as in `Own`; rows may share them."""

    number: int
    prompt: Prompt
    sampling: dict[str, Any] = field(default_factory=dict)
    form: dict[str, Any] = field(default_factory=dict)


class Mark(NamedTuple):
    """A control token in an answer: the characters from `start` to `end` of its text.

    `token` is the number of the token in the answer, from 0.
    """

    start: int
    end: int
    token: int


@dataclass(slots=True)
class Completion:
    """The answer to one row: one entry in `outputs` and `finish_reasons` per sample (`n`).

    `seconds` is the wall time of the last attempt in the engine. `refused_tokens` are the tokens of
    earlier answers without the right shape, and of their prompts. `token_logprobs` are, per sample,
    the text and the log probability of each token, where the answer's shape asks for them.
    `values` has, per sample, the values that the answer's shape read out of the text, by column.
    `marks` are, per sample, the control tokens in the text, where the engine was asked to show
    them. It is empty where the engine cannot tell them from text that looks like them. The row went
    to the engine at `began`, and had its outcome at `ended` (Unix seconds; 0: not told).
    """

    outputs: list[str]
    finish_reasons: list[str]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0
    refused_tokens: int = 0
    logprobs: str | None = None
    token_logprobs: list[list[tuple[str, float]]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    marks: list[list[Mark]] = field(default_factory=list)
    began: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)

    @property
    def text(self) -> str:
        """The text of the answer; of several samples, their texts as a JSON list."""
        if len(self.outputs) == 1:
            return self.outputs[0]
        return json.dumps(self.outputs, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a completion does not have the answer shape of the job.

    `code` is the failure code that the row gets. `again` means that another attempt may give an
    answer with the right shape.
    """

    code: str
    message: str
    again: bool = False


Outcome = Completion | Failure
