"""RowCalls: reads calls of the functions that each row brings along (driver and GPU actor)."""

from __future__ import annotations

import functools
import json
from typing import Any

from gemma_batch.answering.answers import Fields, Sample, refused
from gemma_batch.answering.calls import CALLS, Calls
from gemma_batch.answering.calls_marked import FORMATS
from gemma_batch.rows import Refusal
from gemma_batch.spec import Tools

LISTS_KEPT = 256  # readers for the lists of functions that were used last


class RowCalls:
    """Reads the calls of a row's functions; `form` as for `Calls`.

    The column `tool_calls` is null for a row without functions.
    """

    def __init__(self, form: str) -> None:
        self._form = form

    def fields(self) -> Fields:
        """The calls."""
        return [("tool_calls", CALLS)]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """The control tokens; the rest is what each row asks for."""
        return {"skip_special_tokens": False} if self._form in FORMATS else {}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses what `Calls` refuses, and several calls where the row wants one."""
        if (given := sample.form.get("tools")) is None:
            return None
        if (refusal := _calls(json.dumps(given), self._form).read(sample)) is not None:
            return refusal
        count = len(sample.values["tool_calls"])
        if count > 1 and sample.form.get("one_call"):
            text = f"the answer has {count} calls, and parallel_tool_calls is false"
            return refused(text)
        return None


@functools.lru_cache(maxsize=LISTS_KEPT)
def _calls(tools: str, form: str) -> Calls:
    return Calls(Tools.model_validate(json.loads(tools)), form)
