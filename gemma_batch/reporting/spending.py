"""Spending: what an output has cost by its driver's count, kept beside the budget (driver).

Receipts tell the hours of workers that committed a unit, until their last commit. The driver of an
output with a budget also sees the other hours: of workers that died or were stopped before their
first commit, and those after the last commit. It keeps them in the output, so that they count
against the budget in the next run too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gemma_batch.reporting.cost import Cost
from gemma_batch.spec import Budget
from gemma_batch.storage.interfaces import Store

KEY = "_run/spending.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The budget of the last start that had one, and the cost by worker, of all runs."""

    budget: Budget = field(default_factory=Budget)
    workers: Mapping[str, Cost] = field(default_factory=dict)


def save_spending(store: Store, spending: Spending) -> None:
    """Put the record, or replace that of an earlier moment. Raises `StorageError`."""
    data = {
        "budget": spending.budget.model_dump(exclude_none=True),
        "workers": {name: asdict(cost) for name, cost in spending.workers.items()},
    }
    store.put(KEY, json.dumps(data).encode())


def load_spending(store: Store) -> Spending:
    """The record of an output; an empty one where no run had a budget. Raises `StorageError`."""
    try:
        data = json.loads(store.read(KEY))
    except FileNotFoundError:
        return Spending()
    return Spending(
        budget=Budget.model_validate(data["budget"]),
        workers={name: Cost(**cost) for name, cost in data["workers"].items()},
    )


def spent_text(budget: Mapping[str, Any], hours: float, cost: float | None) -> str:
    """What was spent of a budget, in words; "" without a budget.

    `budget` is that of a report: it has `gpu_hours`, `cost` or both. `hours` and `cost` are spent.
    """
    spent = {"gpu_hours": hours, "cost": cost or 0.0}
    return " and ".join(
        f"{exact(spent[name])} of policy.budget.{name}={limit:g}" for name, limit in budget.items()
    )


def exact(value: float) -> str:
    """An amount for people: two decimals, or three digits of a small amount."""
    if value >= 1 or value == 0:
        return f"{value:,.2f}"
    return f"{float(f'{value:.3g}'):.9f}".rstrip("0")
