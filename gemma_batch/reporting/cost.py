"""What an output cost: the hours for which its workers held their GPUs, from receipts alone.

Counted from a worker's birth to its last commit, over every run on the output: loading costs as
much as answering. A worker that died before its first commit left no receipt and is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gemma_batch.committing.ledger import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`hours` of GPUs (of engines, where there are none); `price` is None where none was given."""

    hours: float
    price: float | None


def cost_of(receipts: Iterable[Receipt]) -> Cost:
    """Add up the workers; each holds `devices`, which together cost `price` per hour."""
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
