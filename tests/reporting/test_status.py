"""Status from the output alone: counts, the pace of the last stretch of work, and what is left."""

from __future__ import annotations

from typing import Any

from gemma_batch.reporting.status import _pace


def receipt(started: float, finished: float, rows: int = 100) -> dict[str, Any]:
    return {"started": started, "finished": finished, "rows": rows, "completion_tokens": 5 * rows}


def test_the_pace_is_that_of_the_last_stretch() -> None:
    """A job stopped yesterday and gone on with today is not slow because of the night."""
    yesterday = [receipt(0, 1000, rows=1), receipt(500, 2000, rows=1)]
    today = [receipt(90_000, 90_020), receipt(90_010, 90_040), receipt(90_043, 90_050)]
    pace = _pace([*today, *yesterday])
    assert (pace.rows, pace.tokens, pace.seconds, pace.last) == (300, 1500, 50, 90_050)


def test_a_unit_that_spans_others_belongs_to_the_stretch() -> None:
    """The order in which units end is not that in which they begin."""
    pace = _pace([receipt(0, 100), receipt(95, 110), receipt(20, 30)])
    assert (pace.rows, pace.seconds) == (300, 110)


def test_an_output_without_receipts_has_no_pace() -> None:
    """Before the first commit."""
    assert _pace([]).seconds == 0
    assert _pace([]).last is None
