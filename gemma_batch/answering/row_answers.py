"""RowAnswers: answers whose shape each row brings along (driver and GPU actor).

Shapes differ from row to row, and a column has one type. So the column `answer` holds JSON text.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pyarrow as pa

from gemma_batch.answering.answers import Fields, Reader, Sample
from gemma_batch.answering.values import reader_of
from gemma_batch.rows import Refusal
from gemma_batch.spec import Answer

SHAPES_KEPT = 256  # readers of the shapes that were used last


class RowAnswers:
    """Reads an answer by the shape that its row asks for; without one, the answer is text."""

    def fields(self) -> Fields:
        """The value as JSON text; null for a row that asks for text."""
        return [("answer", pa.string())]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """Nothing for all rows: each row asks for itself."""
        return {}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses an answer without the shape of its row. `output` keeps the text."""
        shape = sample.form.get("answer")
        if shape is None:
            return None
        reader = _reader(json.dumps(shape))
        if (refusal := reader.read(sample)) is not None:
            return refusal
        value = sample.values["answer"]
        if "schema" not in shape or value is None:  # otherwise the value is JSON already
            sample.values["answer"] = json.dumps(value, ensure_ascii=False)
        return None


@functools.lru_cache(maxsize=SHAPES_KEPT)
def _reader(shape: str) -> Reader:
    reader = reader_of(Answer.model_validate(json.loads(shape)), as_json=True)
    assert reader is not None
    return reader
