"""Cost of an output: how many hours workers held GPUs, and the price.

By receipts, each worker counts from its birth to its last commit, because loading costs as much as
answering. All runs on the output count. A worker that died before its first commit left no receipt;
its hours are known only where the output has a budget (see `spending.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gemma_batch.committing.ledger import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`hours` of GPUs (of engines on a cluster without GPUs), and the `price` of these hours.

    `price` is None when the spec gives no price.
    """

    hours: float
    price: float | None


class Meter:
    """Adds up the cost of all workers. Each worker counts with the longest time that was told.

    `workers` is the cost by worker, so far.
    """

    def __init__(self, workers: Mapping[str, Cost] | None = None) -> None:
        self.workers: dict[str, Cost] = dict(workers or {})

    def receipt(self, receipt: Receipt) -> None:
        """Take a receipt: its worker held GPUs until the commit.

        `devices` is how many GPUs the worker holds, and `price` is the price per hour of all GPUs
        of the worker. Receipts of old versions have neither.
        """
        if "devices" in receipt:
            seconds = receipt["finished"] - receipt["born"]
            self.held(receipt["worker"], seconds, receipt["devices"], receipt["price"])

    def held(self, worker: str, seconds: float, devices: float, price: float | None) -> None:
        """The worker has held `devices` GPUs for so many seconds. `price`: see `receipt`."""
        hours = seconds / 3600
        known = self.workers.get(worker)
        if known is None or hours * devices > known.hours:
            paid = None if price is None else hours * price
            self.workers[worker] = Cost(hours=hours * devices, price=paid)

    @property
    def total(self) -> Cost:
        """The cost of all workers together."""
        prices = [cost.price for cost in self.workers.values() if cost.price is not None]
        hours = sum(cost.hours for cost in self.workers.values())
        return Cost(hours=hours, price=sum(prices) if prices else None)


def cost_of(receipts: Iterable[Receipt], workers: Mapping[str, Cost] | None = None) -> Cost:
    """The cost of all workers: by their receipts, and by `workers` where these knew of more.

    Rounded to a millionth.
    """
    meter = Meter(workers)
    for receipt in receipts:
        meter.receipt(receipt)
    found = meter.total
    price = None if found.price is None else round(found.price, 6)
    return Cost(hours=round(found.hours, 6), price=price)
