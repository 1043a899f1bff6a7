"""Accounts: how the engines of one run spent their time, from the run's receipts (driver).

Every engine-second from the start of the run to the last commit of a route is booked once:

    start    the engine was not ready: waiting for the cluster, loading, compiling
    starved  the engine was ready and had nothing to do while work was left: a cost of this package
    retries  restarting a dead engine and isolating the row that killed the engine
    tail     no work was left for this engine while other engines still worked
    prefill  } answering; both phases run in the same steps, so the time is split in
    decode   } proportion to the cost of each phase by the roofline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from gemma_batch.committing.ledger import Receipt
from gemma_batch.committing.reuse import worked
from gemma_batch.family import speed
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.roofline import Workload, prefill_share
from gemma_batch.planning.estimate import engine_limit, precision_of
from gemma_batch.planning.route_plan import RoutePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFacts:
    """Facts about the engines of a route that only the driver knows.

    `engines` counts the engines, at most; `at_start` those that the run began with (None: all).
    An engine that joins later is booked from its birth. `prefill_share` is the share of prefill in
    the time of a mean row. `limit_tokens_per_second` is the physical limit of one engine in output
    tokens (None on a CPU).
    """

    engines: int
    prefill_share: float
    limit_tokens_per_second: float | None = None
    at_start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The engine-seconds of one run by purpose (see the module's docstring)."""

    start: float = 0.0
    starved: float = 0.0
    retries: float = 0.0
    tail: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all engine-seconds."""
        return float(sum(asdict(self).values()))

    def shares(self) -> dict[str, float]:
        """The share of each purpose in the total; empty when the total is 0."""
        total = self.total
        return {k: round(v / total, 4) for k, v in asdict(self).items()} if total > 0 else {}


def make_accounts(
    receipts: Sequence[Receipt], started: float, routes: Mapping[str, RouteFacts]
) -> Accounts:
    """Book the engine-seconds of a run that began at `started` (Unix seconds).

    When the process of an engine died and was replaced, its time is booked until its last commit.
    A process that died before its first commit left no receipt. Its time is booked as `start` of
    its successor.
    """
    booked = {"start": 0.0, "starved": 0.0, "retries": 0.0, "tail": 0.0}
    busy = {"prefill": 0.0, "decode": 0.0}
    for name, facts in routes.items():
        mine = [r for r in receipts if r["route"] == name and "born" in r]
        if not mine:
            continue
        end = max(receipt["finished"] for receipt in mine)
        for worker in _workers(mine, facts, started, end):
            for key in booked:
                booked[key] += worker[key]
            busy["prefill"] += worker["busy"] * facts.prefill_share
            busy["decode"] += worker["busy"] * (1 - facts.prefill_share)
    return Accounts(**booked, **busy)


def _workers(
    receipts: Sequence[Receipt], facts: RouteFacts, started: float, end: float
) -> list[dict[str, float]]:
    by_worker: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        by_worker.setdefault(receipt["worker"], []).append(receipt)
    born = sorted(by_worker, key=lambda name: by_worker[name][0]["born"])
    first = set(born[: facts.engines if facts.at_start is None else facts.at_start])
    survivors = set(
        sorted(by_worker, key=lambda name: _last(by_worker[name])["finished"])[-facts.engines :]
    )
    result = []
    for name, mine in by_worker.items():
        last = _last(mine)
        begin = started if name in first else last["born"]
        # An engine that was never ready was given no request.
        ready = max(last["engine_ready"] or last["finished"], begin)
        starved, retries = last.get("starved", 0.0), last.get("recovering", 0.0)
        result.append(
            {
                "start": ready - begin,
                "starved": starved,
                "retries": retries,
                "tail": end - last["finished"] if name in survivors else 0.0,
                "busy": max(0.0, last["finished"] - ready - starved - retries),
            }
        )
    return result


def _last(receipts: Sequence[Receipt]) -> Receipt:
    return max(receipts, key=lambda receipt: receipt["finished"])


def limit_share(
    receipts: Sequence[Receipt], started: float, routes: Mapping[str, RouteFacts]
) -> float | None:
    """Output tokens as a share of the physical limit over the same time; start-up is left out.

    None when the engines of a route have no known limit, or when no unit was committed.
    """
    possible = made = 0.0
    for name, facts in routes.items():
        mine = [r for r in receipts if r["route"] == name and "born" in r]
        if not mine:
            continue
        if facts.limit_tokens_per_second is None:
            return None
        end = max(receipt["finished"] for receipt in mine)
        workers = _workers(mine, facts, started, end)
        seconds = sum(w["busy"] + w["starved"] + w["retries"] + w["tail"] for w in workers)
        possible += seconds * facts.limit_tokens_per_second
        made += sum(worked(receipt, "completion_tokens") for receipt in mine)
    return round(made / possible, 4) if possible > 0 else None


def route_facts(
    route: RoutePlan,
    engines: int,
    hardware: Hardware,
    receipts: Sequence[Receipt],
    *,
    at_start: int | None = None,
) -> RouteFacts:
    """The facts of a route: its engines, and their limit for the work in the receipts.

    `at_start` is as in `RouteFacts`.
    """
    placement = route.placement
    assert placement is not None
    gpu = hardware.gpu if placement.gpu_memory_utilization > 0 else None

    def mean(name: str) -> float:
        answered = sum(worked(receipt, "answered") for receipt in receipts)
        return sum(worked(receipt, name) for receipt in receipts) / max(answered, 1)

    work = Workload(
        prompt_tokens=mean("prompt_tokens"),
        output_tokens=mean("completion_tokens"),
        cached_tokens=mean("cached_tokens"),
    )
    peak = engine_limit(route, gpu, work)
    share = prefill_share(
        route.card,
        gpu or speed.CPU,
        work,
        precision=precision_of(route),
        tensor_parallel=placement.tensor_parallel,
    )
    return RouteFacts(
        engines=engines,
        at_start=at_start,
        prefill_share=round(share, 4),
        limit_tokens_per_second=peak.output_tokens_per_second if peak else None,
    )
