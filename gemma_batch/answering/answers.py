"""Answers: the columns that a job's answers fill, and whether an answer may fill them (driver, GPU
actor).

The text of an answer goes through a row of readers (see `shapes.py`). Each reader takes one thing
out of the text: the thoughts, the calls of functions, the typed value. A reader refuses an answer
in which this thing is broken. In the driver, the plan asks the readers which sampling parameters
they need. In the GPU actor, the feed has each answer read, and the commit writes the columns.

To add a shape, write a class with the methods of `Reader`, and add it to `shape_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from gemma_batch.errors import FailureCode
from gemma_batch.rows import Completion, Mark, Refusal, Request

Fields = Sequence[tuple[str, pa.DataType]]
Check = Callable[[Completion, Request], Refusal | None]
# What every answer fills, whatever its shape. `logprobs` only where the job asks for them.
TEXT_COLUMNS = frozenset({"output", "finish_reason", "logprobs"})


@dataclass(slots=True)
class Sample:
    """One answer of a row, on its way through the readers.

    `text` is the text that the readers have left over of the `whole` answer; after the last reader
    it becomes the column `output`. `tokens` are the text and log probability of each token of the
    answer, where the shape asked for them. `own` are the row's own parameters, and `form` is what
    the row asks of the form of its answer. `values` are the values of the readers' columns. `marks`
    are the control tokens in `text`, in their order; None where nobody knows which of the texts
    that look like control tokens are some. `inside` is the part of the answer that has no end,
    where a reader has found one.
    """

    text: str
    finish_reason: str
    whole: str = ""
    tokens: Sequence[tuple[str, float]] = ()
    marks: list[Mark] | None = None
    inside: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    form: Mapping[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def find(self, mark: str, start: int) -> int:
        """The place of the next control token `mark` at or after `start`; -1 when there is none."""
        if self.marks is None:
            return self.text.find(mark, start)
        for one in self.marks:
            if one.start >= start and self.text[one.start : one.end] == mark:
                return one.start
        return -1

    def tokens_between(self, start: int, end: int, *, closed: bool) -> int | None:
        """The number of tokens from one control token, or the start of the answer, to another one.

        `start` and `end` are their places; with `closed`, the one at `end` counts too. None where
        the control tokens are not known.
        """
        if self.marks is None:
            return None
        number = {mark.start: mark.token for mark in self.marks}
        return number[end] - number.get(start, 0) + closed

    def cut(self, spans: Sequence[tuple[int, int]]) -> None:
        """Take spans (start, end) in characters out of the text. They do not overlap."""
        for start, end in sorted(spans, reverse=True):
            self.text = self.text[:start] + self.text[end:]
            self.marks = _without(self.marks, start, end)

    def strip(self) -> None:
        """Take the space around the text away."""
        end = len(self.text.rstrip())
        self.cut([(end, len(self.text))])
        self.cut([(0, len(self.text) - len(self.text.lstrip()))])


def _without(marks: list[Mark] | None, start: int, end: int) -> list[Mark] | None:
    if marks is None:
        return None
    size = end - start
    return [
        mark if mark.start < start else Mark(mark.start - size, mark.end - size, mark.token)
        for mark in marks
        if not start <= mark.start < end
    ]


def refused(text: str) -> Refusal:
    """The refusal of an answer that may have the shape the next time; `text` says why."""
    return Refusal(FailureCode.INVALID_ANSWER.value, text, again=True)


class Reader(Protocol):
    """Reads one thing out of the text of an answer.

    A reader keeps nothing between two answers, so one instance serves any number of rows.
    """

    def fields(self) -> Fields:
        """Name and type of each column that the reader fills. They stand after `output`."""
        ...

    def details(self) -> Fields:
        """Name and type of each column with details. They stand at the end of the row."""
        ...

    def asks(self) -> dict[str, Any]:
        """Sampling parameters that the reader needs, in addition to those of the job."""
        ...

    def read(self, sample: Sample) -> Refusal | None:
        """Put the values of the columns into `sample.values`; take what was read out of the text.

        A column without a value is null. Returns why the answer does not have the shape, else None.
        """
        ...


class AnswerShape:
    """The shape of a job's answers: text, and what `readers` read out of it.

    `samples` is the number of answers of a row: above 1, each column has a list of so many values.
    `max_tokens` is the job's longest answer, in tokens.
    """

    def __init__(
        self,
        readers: Sequence[Reader] = (),
        *,
        samples: int = 1,
        logprobs: bool = False,
        max_tokens: int = 0,
    ) -> None:
        self.readers, self.samples, self.logprobs = tuple(readers), samples, logprobs
        self.max_tokens = max_tokens

    def fields(self) -> Fields:
        """Name and type of each column that holds the answer. They stand after the row's id."""
        text = [("output", pa.string())]
        read = [one for reader in self.readers for one in reader.fields()]
        return self._listed([*text, *read, ("finish_reason", pa.string())])

    def details(self) -> Fields:
        """Name and type of each column with details of the answer. They stand at the end."""
        read = self._listed([one for reader in self.readers for one in reader.details()])
        return [*read, ("logprobs", pa.string())] if self.logprobs else read

    def _listed(self, fields: Fields) -> list[tuple[str, pa.DataType]]:
        if self.samples == 1:
            return list(fields)
        return [(name, pa.list_(kind)) for name, kind in fields]

    @property
    def names(self) -> frozenset[str]:
        """The names of all columns of the answer."""
        return frozenset(name for name, _ in (*self.fields(), *self.details()))

    def asks(self) -> dict[str, Any]:
        """Sampling parameters that the shape needs, in addition to those of the job."""
        return {name: value for reader in self.readers for name, value in reader.asks().items()}

    def check(self, completion: Completion, request: Request) -> Refusal | None:
        """Read the completion: None when it has the shape, else the reason why it has not.

        An accepted completion has its `values`, and `outputs` are the texts that the readers left.
        A refused one stays as it is.
        """
        found = len(completion.outputs)
        if not found == self.samples == len(completion.finish_reasons):
            text = f"the engine gave {found} answers where sampling.n asks for {self.samples}"
            return Refusal(FailureCode.ENGINE_ERROR.value, text, again=True)
        tokens = completion.token_logprobs or [[]] * found
        marks: Sequence[list[Mark] | None] = completion.marks or [None] * found
        samples = [
            Sample(
                text,
                reason,
                whole=text,
                tokens=parts,
                marks=known,
                own=request.sampling,
                form=request.form,
            )
            for text, reason, parts, known in zip(
                completion.outputs, completion.finish_reasons, tokens, marks, strict=True
            )
        ]
        for sample in samples:
            for reader in self.readers:
                if (refusal := reader.read(sample)) is not None:
                    return self._explained(refusal, sample)
        completion.outputs = [sample.text for sample in samples]
        completion.values = [sample.values for sample in samples]
        return None

    def _explained(self, refusal: Refusal, sample: Sample) -> Refusal:
        """The refusal with its deeper cause, where the answer came to no end of its own."""
        if refusal.code != FailureCode.INVALID_ANSWER:
            return refusal
        if sample.finish_reason == "length":
            most = int(sample.own.get("max_tokens", self.max_tokens))
            inside = f" inside {sample.inside}" if sample.inside else ""
            text = f"the answer was cut off{inside} after {most:,} tokens (sampling.max_tokens)"
            return replace(refusal, message=text)
        if sample.finish_reason == "error":
            return replace(refusal, message="the engine found no way to write the shape")
        return refusal

    def columns(self, completions: Sequence[Completion]) -> dict[str, list[Any]]:
        """The values of each column in `fields` and `details`, one value per completion.

        Every completion has passed `check`.
        """
        columns = {
            "output": [self._one(c.outputs) for c in completions],
            **{
                name: [self._one([values.get(name) for values in c.values]) for c in completions]
                for reader in self.readers
                for name, _ in (*reader.fields(), *reader.details())
            },
            "finish_reason": [self._one(c.finish_reasons) for c in completions],
        }
        if self.logprobs:
            columns["logprobs"] = [c.logprobs for c in completions]
        return columns

    def _one(self, values: list[Any]) -> Any:
        return values[0] if self.samples == 1 else values
