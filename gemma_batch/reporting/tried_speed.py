"""The speed of a try: rows per second of each route, measured and to expect (driver, laptop)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemma_batch.committing.ledger import Receipt
from gemma_batch.engines.base import engine_class
from gemma_batch.family import speed
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.roofline import Workload, filling
from gemma_batch.planning.estimate import precision_of
from gemma_batch.planning.pool import make_pool
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.reporting.pace import Pace, pace
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.tried_rows import code_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpeed:
    """How fast a route is. Tokens are means per answered row.

    `measured` are rows per second of one engine, which had `running` sequences on average of the
    `slots` that it can have; `full` says that they were all in use. `gain` is how many times as
    fast a full engine is by the roofline. `rows_per_second` is the speed to expect of the
    `engines` of the run together. `start_seconds` is the start of an engine, `seconds` the time in
    which the speed was measured. All are None where no row reached an engine.
    """

    route: str
    model: str
    rows: int
    prompt_tokens: float
    output_tokens: float
    cached_tokens: float
    engines: int
    gpus: float
    measured: float | None = None
    running: float | None = None
    slots: int | None = None
    full: bool | None = None
    gain: float | None = None
    rows_per_second: float | None = None
    start_seconds: float | None = None
    seconds: float | None = None


def route_speed(
    route: RoutePlan,
    rows: Sequence[ShownRow],
    receipts: Sequence[Receipt],
    hardware: Hardware,
) -> RouteSpeed:
    """The speed of a placed route by the rows of the try and its receipts."""
    assert route.placement is not None
    answered = [row.answers[0] for row in rows if code_of(row) is None]
    pool = make_pool(route, hardware)

    def mean(name: str) -> float:
        return statistics.fmean(getattr(one, name) or 0 for one in answered) if answered else 0.0

    known: dict[str, Any] = {
        "route": route.route.name,
        "model": route.route.model,
        "rows": len(rows),
        "prompt_tokens": round(mean("prompt_tokens"), 1),
        "output_tokens": round(mean("completion_tokens"), 1),
        "cached_tokens": round(mean("cached_tokens"), 1),
        "engines": pool.most,
        "gpus": pool.num_gpus * pool.most,
    }
    mine = [one for one in receipts if one["route"] == route.route.name]
    paces = _paces(mine)
    if not paces:
        return RouteSpeed(**known)
    # A worker that died left few rows behind: the engine with the most rows tells the speed.
    best = max(one.rows for one in paces)
    paces = [one for one in paces if one.rows * 2 >= best]
    running = statistics.fmean(one.running for one in paces)
    full, slots = all(one.full for one in paces), paces[0].slots
    work = Workload(
        prompt_tokens=max(known["prompt_tokens"], 1.0),
        output_tokens=known["output_tokens"],
        cached_tokens=known["cached_tokens"],
    )
    gain = 1.0
    if not full and engine_class(route.resources.engine).computes:
        gain = filling(
            route.card,
            (hardware.gpu if pool.num_gpus else None) or speed.CPU,
            work,
            running=running,
            slots=slots,
            precision=precision_of(route),
            tensor_parallel=route.placement.tensor_parallel,
        )
    measured = statistics.fmean(one.rows_per_second for one in paces)
    return RouteSpeed(
        **known,
        measured=round(measured, 3),
        running=round(running, 1),
        slots=slots,
        full=full,
        gain=round(gain, 3),
        rows_per_second=round(measured * gain * pool.most, 3),
        start_seconds=round(statistics.median(r["engine_ready"] - r["born"] for r in mine), 1),
        seconds=round(sum(one.seconds for one in paces) / len(paces), 3),
    )


def _paces(receipts: Sequence[Receipt]) -> list[Pace]:
    """The pace of each worker. Rows from before an engine was warm do not count."""
    by_worker: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        if "times" in receipt:
            by_worker.setdefault(receipt["worker"], []).append(receipt)
    found = []
    for mine in by_worker.values():
        every = [(begin, end) for one in mine for _, begin, end in one["times"]]
        warm = max(one["timed_from"] for one in mine)
        # A sample of a few rows is all of it from before that.
        times = [time for time in every if time[0] >= warm] or every
        if (one := pace(times, mine[0]["slots"])) is not None:
            found.append(one)
    return found
