"""Answer shapes: what an answer must look like, and which columns of the results it fills.

The plan asks a shape what it wants of the engine (driver), the feed asks it whether a completion
is acceptable, the commit asks it for the columns (both in the GPU actor). A new shape is a class
as `AnswerShape` describes it, one line in `shape_of` and one in `EVERY_SHAPE`.
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
    """What is asked of an answer. Stateless, so one instance serves any number of rows."""

    def fields(self) -> Fields:
        """Name and type of the columns that an answer fills, in their order."""
        ...

    def asks(self) -> dict[str, Any]:
        """Sampling parameters that the shape needs of the engine, beside the job's own."""
        ...

    def check(self, completion: Completion) -> Refusal | None:
        """None for an answer of this shape, else why it is none."""
        ...

    def columns(self, completions: Sequence[Completion]) -> dict[str, list[Any]]:
        """The values of `fields`, one for each completion; all of them have passed `check`."""
        ...


@dataclass(frozen=True, slots=True)
class TextShape:
    """The text as the model gave it; lists of `samples` texts where a row asks for several."""

    samples: int = 1
    logprobs: bool = False

    def fields(self) -> Fields:
        """`output` and `finish_reason`, and `logprobs` as JSON where they are asked for."""
        kind = pa.string() if self.samples == 1 else pa.list_(pa.string())
        fields = [("output", kind), ("finish_reason", kind)]
        return [*fields, ("logprobs", pa.string())] if self.logprobs else fields

    def asks(self) -> dict[str, Any]:
        """Nothing: every engine answers with text."""
        return {}

    def check(self, completion: Completion) -> Refusal | None:
        """Any text will do, but there must be as many as were asked for."""
        found = len(completion.outputs)
        if found == self.samples == len(completion.finish_reasons):
            return None
        text = f"the engine gave {found} answers where sampling.n asks for {self.samples}"
        return Refusal(FailureCode.ENGINE_ERROR.value, text, again=True)

    def columns(self, completions: Sequence[Completion]) -> dict[str, list[Any]]:
        """See `fields`."""
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
# Names that an answer of any shape may fill: no kept column may have one of them.
ANSWER_COLUMNS = frozenset(name for shape in EVERY_SHAPE for name, _ in shape.fields())


def shape_of(sampling: Mapping[str, Any]) -> AnswerShape:
    """The shape of the answers of a job with these sampling parameters."""
    return TextShape(int(sampling.get("n", 1)), sampling.get("logprobs") is not None)
