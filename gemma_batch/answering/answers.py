"""Answer shapes: how an answer must look, and which columns it fills (driver and GPU actor).

In the driver, the plan asks a shape which sampling parameters it needs. In the GPU actor, the feed
asks the shape whether a completion is acceptable, and the commit asks it for the values of the
columns. To add a shape, write a class with the methods of `AnswerShape`, and add one line to
`shape_of` and one to `EVERY_SHAPE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from gemma_batch.errors import FailureCode
from gemma_batch.rows import Completion, Refusal

Fields = Sequence[tuple[str, pa.DataType]]


class AnswerShape(Protocol):
    """The shape that a job wants its answers to have.

    A shape has no state, so one instance serves any number of rows.
    """

    def fields(self) -> Fields:
        """Name and type of each column that holds the answer. They stand after the row's id."""
        ...

    def details(self) -> Fields:
        """Name and type of each column with details of the answer. They stand at the end."""
        ...

    def asks(self) -> dict[str, Any]:
        """Sampling parameters that the shape needs, in addition to those of the job."""
        ...

    def check(self, completion: Completion) -> Refusal | None:
        """None if the completion has this shape, else the reason why it has not."""
        ...

    def columns(self, completions: Sequence[Completion]) -> dict[str, list[Any]]:
        """The values of each column in `fields` and `details`, one value per completion.

        Every completion has passed `check`.
        """
        ...


@dataclass(frozen=True, slots=True)
class TextShape:
    """The text as the model gave it. With `samples` above 1, a row has a list of so many texts."""

    samples: int = 1
    logprobs: bool = False

    def fields(self) -> Fields:
        """`output` and `finish_reason`."""
        kind = pa.string() if self.samples == 1 else pa.list_(pa.string())
        return [("output", kind), ("finish_reason", kind)]

    def details(self) -> Fields:
        """`logprobs` as JSON text, when the job asks for them."""
        return [("logprobs", pa.string())] if self.logprobs else []

    def asks(self) -> dict[str, Any]:
        """Nothing: every engine answers with text."""
        return {}

    def check(self, completion: Completion) -> Refusal | None:
        """Accepts any text. Refuses a completion with more or fewer than `samples` texts."""
        found = len(completion.outputs)
        if found == self.samples == len(completion.finish_reasons):
            return None
        text = f"the engine gave {found} answers where sampling.n asks for {self.samples}"
        return Refusal(FailureCode.ENGINE_ERROR.value, text, again=True)

    def columns(self, completions: Sequence[Completion]) -> dict[str, list[Any]]:
        """The values of each column in `fields` and `details`, one value per completion."""
        single = self.samples == 1
        columns: dict[str, list[Any]] = {
            "output": [c.outputs[0] if single else c.outputs for c in completions],
            "finish_reason": [
                c.finish_reasons[0] if single else c.finish_reasons for c in completions
            ],
        }
        if self.logprobs:
            columns["logprobs"] = [c.logprobs for c in completions]
        return columns


EVERY_SHAPE: tuple[AnswerShape, ...] = (TextShape(logprobs=True),)
# The names of all columns that an answer may fill, of any shape. No kept column may have such a
# name.
ANSWER_COLUMNS = frozenset(
    name for shape in EVERY_SHAPE for name, _ in (*shape.fields(), *shape.details())
)


def shape_of(sampling: Mapping[str, Any]) -> AnswerShape:
    """The shape of the answers in a job with these sampling parameters."""
    return TextShape(int(sampling.get("n", 1)), sampling.get("logprobs") is not None)
