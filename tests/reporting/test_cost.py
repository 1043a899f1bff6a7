"""The cost counts every worker from its birth to its last commit, once."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.reporting.cost import cost_of


def receipt(worker: str, born: float, finished: float, devices: float, price: Any) -> Any:
    return {
        "worker": worker, "born": born, "finished": finished, "devices": devices, "price": price,
    }  # fmt: skip


def test_workers_are_counted_once_and_with_their_own_price() -> None:
    """Two GPUs of one worker for an hour, half a GPU of another for two; loading included."""
    found = cost_of(
        [
            receipt("a", 0, 1800, 2.0, 6.0),
            receipt("a", 0, 3600, 2.0, 6.0),
            receipt("a", 0, 900, 2.0, 6.0),
            receipt("b", 0, 7200, 0.5, 1.0),
        ]
    )
    assert (found.hours, found.price) == (3.0, 8.0)


def test_without_a_price_only_the_hours_are_known() -> None:
    """None, not zero: nobody said that it was free."""
    assert cost_of([receipt("a", 0, 3600, 1.0, None)]).price is None
    assert cost_of([]).price is None
    free = cost_of([receipt("a", 0, 3600, 1.0, 0.0)])
    assert (free.hours, free.price) == (1.0, 0.0)


def test_hours_of_a_short_run_agree_with_its_price() -> None:
    """Seventeen seconds are 0.0047 hours: rounded like that, the price would seem 1% wrong."""
    found = cost_of([receipt("a", 0, 17.09, 1.0, 36.0)])
    assert found.price == pytest.approx(36.0 * found.hours, rel=1e-3)
    assert found.price == pytest.approx(0.1709, rel=1e-3)
