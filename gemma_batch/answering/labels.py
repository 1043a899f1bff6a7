"""Choice: an answer that is one of a list of labels (driver and GPU actor)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from gemma_batch.answering.answers import Fields, Sample, refused
from gemma_batch.rows import Refusal


class Choice:
    """Reads an answer that is one of the `labels`, letter for letter."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._listed, self._labels = list(labels), frozenset(labels)

    def fields(self) -> Fields:
        """The label."""
        return [("answer", pa.string())]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """The engine writes nothing but a label."""
        return {"structured_outputs": {"choice": self._listed}}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses a text that is no label. `output` keeps the text."""
        # An answer that was cut off may be the begin of a longer label.
        cut = sample.finish_reason == "length"
        longer = cut and any(one.startswith(sample.text) for one in self._labels - {sample.text})
        if sample.text not in self._labels or longer:
            text = f"the answer {sample.text[:200]!r} is none of the labels of answer.choice"
            return refused(text)
        sample.values["answer"] = sample.text
        return None
