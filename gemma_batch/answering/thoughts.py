"""Thoughts: takes the thoughts of Gemma 4 out of its answers (driver and GPU actor)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from gemma_batch.answering.answers import Fields, Sample, refused
from gemma_batch.engines.structure import STRUCTURE
from gemma_batch.rows import Refusal

OPEN, CLOSE, LABEL = "<|channel>", "<channel|>", "thought"
CALL = "<|tool_call>"  # a call ends a thought, too
BETWEEN = "\n\n"  # two thoughts in one column


class Thoughts:
    """Reads the thoughts of an answer, `<|channel>thought\\n...<channel|>`.

    `column` says that the job asked for them. Without it they are left out: some models think
    unasked. `opened` says that the prompt ends inside a thought; it does so too for a row that asks
    for a shape of its own.
    """

    def __init__(self, *, column: bool, opened: bool = False) -> None:
        self._column, self._opened = column, opened

    def fields(self) -> Fields:
        """The text of the thoughts; null for an answer without any."""
        return [("thinking", pa.string())] if self._column else []

    def details(self) -> Fields:
        """How many of the answer's tokens were thoughts, with the marks around them."""
        return [("thinking_tokens", pa.int32())] if self._column else []

    def asks(self) -> dict[str, Any]:
        """The control tokens around a thought."""
        return {"skip_special_tokens": False}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses an answer that ends inside a thought: nothing was answered."""
        found: list[str] = []
        spans: list[tuple[int, int]] = []
        tokens: int | None = 0
        at, inside = 0, self._opened or (self._column and STRUCTURE in sample.own)
        if not inside and 0 <= sample.find(CLOSE, 0) < _end(sample.find(OPEN, 0)):
            inside = True  # the thought was opened before the answer
        while inside or (at := sample.find(OPEN, at)) >= 0:
            start, inside = at, False
            opened = sample.find(OPEN, at) == at
            begin = at + len(OPEN) if opened else at
            close, call = sample.find(CLOSE, begin), sample.find(CALL, begin)
            if 0 <= call < _end(close):
                end, after = call, call
            elif close >= 0:
                end, after = close, close + len(CLOSE)
            else:
                return _unfinished(sample)
            found.append(_words(sample.text[begin:end]))
            spans.append((start, after))
            tokens = _more(tokens, sample.tokens_between(start, end, closed=after > end))
            at = after
        sample.cut(spans)
        if spans:
            sample.strip()
        if self._column:
            sample.values["thinking"] = BETWEEN.join(filter(None, found)) or None
            sample.values["thinking_tokens"] = tokens
        return None


class Unmarked:
    """Takes the control tokens out that the readers before it have left, such as `<eos>`."""

    def fields(self) -> Fields:
        """None."""
        return []

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses nothing. A row that asked for the control tokens keeps them."""
        if sample.own.get("skip_special_tokens") is not False:
            sample.cut([(mark.start, mark.end) for mark in sample.marks or ()])
        return None


def _end(place: int) -> float:
    return float("inf") if place < 0 else place


def _words(text: str) -> str:
    text = text.strip()
    if text == LABEL or text.startswith(f"{LABEL}\n"):
        text = text[len(LABEL) :]
    return text.strip()


def _more(tokens: int | None, further: int | None) -> int | None:
    return None if tokens is None or further is None else tokens + further


def _unfinished(sample: Sample) -> Refusal:
    sample.inside = "the thoughts of the model"
    text = "the answer ends inside the thoughts of the model: nothing was answered"
    return refused(text)
