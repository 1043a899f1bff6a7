"""What was spent is kept beside the budget, and counts where receipts know less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemma_batch.reporting.cost import Cost, cost_of
from gemma_batch.reporting.spending import Spending, load_spending, save_spending, spent_text
from gemma_batch.spec import Budget
from gemma_batch.storage.fs import open_store


def receipt(worker: str, seconds: float, price: float | None = None) -> Any:
    return {"worker": worker, "born": 0.0, "finished": seconds, "devices": 2.0, "price": price}


def test_the_record_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    """Each put replaces the one before; an output without one has spent nothing by it."""
    store = open_store(str(tmp_path))
    assert load_spending(store) == Spending()
    workers = {"a": Cost(hours=1.5, price=None), "b": Cost(hours=0.25, price=3.0)}
    for limit in (1.0, 2.0):
        kept = Spending(budget=Budget(gpu_hours=limit), workers=workers)
        save_spending(store, kept)
        assert load_spending(store) == kept


@pytest.mark.parametrize(
    ("kept", "hours", "price"),
    [
        ({}, 2.0, 3.0),
        ({"a": Cost(hours=1.9, price=2.85)}, 2.0, 3.0),  # the receipt is newer
        ({"a": Cost(hours=2.2, price=3.3)}, 2.2, 3.3),  # the worker lived on after its last commit
        ({"died": Cost(hours=0.5, price=0.75)}, 2.5, 3.75),  # before its first commit
        ({"died": Cost(hours=0.5, price=None)}, 2.5, 3.0),
    ],
)
def test_a_worker_counts_once_with_the_longest_time_that_is_known(
    kept: dict[str, Cost], hours: float, price: float
) -> None:
    """By receipts or by the driver that saw it."""
    found = cost_of([receipt("a", 3600.0, price=3.0)], kept)
    assert (found.hours, found.price) == (hours, price)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ({}, ""),
        ({"gpu_hours": 40.0}, "38.25 of policy.budget.gpu_hours=40"),
        ({"cost": 0.5}, "0.0123 of policy.budget.cost=0.5"),
        (
            {"gpu_hours": 40.0, "cost": 0.5},
            "38.25 of policy.budget.gpu_hours=40 and 0.0123 of policy.budget.cost=0.5",
        ),
    ],
)
def test_what_is_spent_is_said_beside_the_field(budget: dict[str, float], text: str) -> None:
    """A reader knows which field to raise."""
    assert spent_text(budget, 38.25, 0.012345) == text
