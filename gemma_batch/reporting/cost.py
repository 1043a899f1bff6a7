"""Cost of an output: how many hours workers held GPUs, and the price, from receipts alone.

Each worker counts from its birth to its last commit, because loading costs as much as answering.
All runs on the output count. A worker that died before its first commit left no receipt, so its
hours are missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gemma_batch.committing.ledger import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`hours` of GPUs (of engines on a cluster without GPUs), and the `price` of these hours.

    `price` is None when the spec gives no price.
    """

    hours: float
    price: float | None


def cost_of(receipts: Iterable[Receipt]) -> Cost:
    """Add up the cost of all workers.

    In a receipt, `devices` is how many GPUs the worker holds, and `price` is the price per hour of
    all GPUs of the worker.
    """
    last: dict[str, Receipt] = {}
    for receipt in receipts:
        if "devices" in receipt:
            before = last.setdefault(receipt["worker"], receipt)
            if receipt["finished"] > before["finished"]:
                last[receipt["worker"]] = receipt
    hours = {name: (r["finished"] - r["born"]) / 3600 for name, r in last.items()}
    priced = [name for name, receipt in last.items() if receipt["price"] is not None]
    return Cost(
        hours=round(sum(hours[name] * last[name]["devices"] for name in last), 6),
        price=round(sum(hours[name] * last[name]["price"] for name in priced), 6)
        if priced
        else None,
    )
