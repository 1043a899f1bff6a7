"""Text shapes: answers that match a regular expression or follow a grammar (driver, GPU actor)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from gemma_batch.answering.answers import Fields, Sample, refused
from gemma_batch.answering.json_answers import CUT_OFF, SHOWN
from gemma_batch.engines import grammars
from gemma_batch.rows import Refusal
from gemma_batch.spec import patterns


class Regex:
    """Reads a text that matches a regular expression from its start to its end."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def fields(self) -> Fields:
        """The text."""
        return [("answer", pa.string())]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """The engine writes nothing but a text that matches."""
        return {"structured_outputs": {"regex": patterns.written(patterns.parsed(self._pattern))}}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses another text, and one that was cut off, which might have gone on."""
        if sample.finish_reason == "length":
            return refused(CUT_OFF)
        if not patterns.matches(self._pattern, sample.text):
            return refused(f"the answer {sample.text[:SHOWN]!r} does not match answer.regex")
        sample.values["answer"] = sample.text
        return None


class Grammar:
    """Reads a text that follows a grammar in EBNF from its start to its end."""

    def __init__(self, grammar: str) -> None:
        self._grammar = grammar

    def fields(self) -> Fields:
        """The text."""
        return [("answer", pa.string())]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """The engine writes nothing but a text that follows the grammar."""
        return {"structured_outputs": {"grammar": self._grammar}}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses another text, and one that was cut off, which might have gone on."""
        if sample.finish_reason == "length":
            return refused(CUT_OFF)
        if not grammars.follows(self._grammar, sample.text):
            return refused(f"the answer {sample.text[:SHOWN]!r} does not follow answer.grammar")
        sample.values["answer"] = sample.text
        return None
