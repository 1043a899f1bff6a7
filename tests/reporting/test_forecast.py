"""The exit code that a sample foretells, with an interval that is honest about the other rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from gemma_batch.planning.foresight import Foreseen
from gemma_batch.reporting.forecast import exit_forecast
from gemma_batch.spec import Policy


@dataclass
class Sample:
    """A sample of so many rows, of which so many fail."""

    rows: int
    failed: int

    @property
    def foreseen(self) -> tuple[Foreseen, ...]:
        one = {"code": "null_value", "id": "1", "shard": "a", "row_number": 0, "message": "m"}
        return (Foreseen(rows=self.failed, **one),) if self.failed else ()  # type: ignore[arg-type]


# (sampled, failed, rows of the input, max_failed) -> (code, certain, least, most, the first words)
TABLE: list[tuple[int, int, int | None, Any, tuple[int, bool, Any, Any], str]] = [
    (8, 0, 8, 0, (0, True, 0, 0), "code 0: none of the 8 rows will fail"),
    (8, 2, 8, 0, (3, True, 2, 2), "code 3: 2 of the 8 rows will fail"),
    (8, 2, 8, 2, (0, True, 2, 2), "code 0: 2 of the 8 rows will fail"),
    (8, 2, 8, "25%", (0, True, 2, 2), "code 0"),
    (1, 1, 1, 0, (3, True, 1, 1), "code 3: 1 of the 1 row will fail"),
    (512, 0, 3000, 0, (0, False, 0, 19), "code 0 is expected: none of 512 sampled rows will fail"),
    (512, 0, 3000, 19, (0, True, 0, 19), "code 0: none of 512 sampled rows"),
    (512, 1, 3000, 0, (3, True, 1, 29), "code 3: 1 of 512 sampled rows will fail"),
    (512, 51, 100_000, "5%", (3, True, 7669, 12_846), "code 3: 51 of 512"),
    (512, 51, 100_000, "20%", (0, True, 7669, 12_846), "code 0: 51 of 512"),
    (512, 51, 100_000, "9%", (3, False, 7669, 12_846), "code 3 is expected"),
    (512, 51, 100_000, 10_000, (0, False, 7669, 12_846), "code 0 is expected"),
    (512, 512, 100_000, 0.5, (3, True, 99_259, 100_000), "code 3: 512 of 512"),
    (512, 0, None, 0, (0, False, None, None), "code 0 is expected"),
    (512, 1, None, 0, (3, True, None, None), "code 3: 1 of 512"),
    (512, 3, None, 5, (0, False, None, None), "code 0 is expected"),
    (512, 0, None, "1%", (0, True, None, None), "code 0: none of 512"),
    (512, 51, None, 0.05, (3, True, None, None), "code 3: 51"),
]


@pytest.mark.parametrize(("sampled", "failed", "rows", "max_failed", "wanted", "said"), TABLE)
def test_the_code_and_the_interval(
    sampled: int, failed: int, rows: int | None, max_failed: Any, wanted: Any, said: str
) -> None:
    """Certain when the whole interval gives one code, or when every row was looked at."""
    found = exit_forecast({"all": Sample(sampled, failed)}, Policy(max_failed=max_failed), rows)
    assert found is not None
    code, certain, least, most = wanted
    assert (found.code, found.certain) == (code, certain)
    assert found.lines[0].startswith(said)
    assert all("come on top" in line for line in found.lines[-1:])
    if least is None:
        assert (found.least, found.most) == (None, None)
        assert "% of all rows" in found.lines[1]
    else:
        assert found.least == pytest.approx(least, abs=1)
        assert found.most == pytest.approx(most, abs=1)
        assert found.most <= (rows or 0)
    if rows is not None and rows > sampled:
        assert f"of all {rows:,} rows" in found.lines[1]
        assert "policy.max_failed allows" in found.lines[1]


def test_routes_count_together_and_an_empty_sample_says_nothing() -> None:
    """The policy is of the whole run."""
    both = {"a": Sample(10, 1), "b": Sample(10, 0)}
    found = exit_forecast(both, Policy(max_failed="5%"), 20)
    assert found is not None
    assert (found.sampled, found.failed, found.code) == (20, 1, 0)
    assert exit_forecast({"a": Sample(0, 0)}, Policy(), None) is None
