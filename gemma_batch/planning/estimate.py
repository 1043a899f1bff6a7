"""The estimate: time, cost and physical limit of a job on given hardware (driver, laptop).

The estimate is arithmetic on a sample, a placement and the GPU table: nothing is measured. It is
good to a factor of two. The report of the run says how far off the estimate was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gemma_batch.engines.base import engine_class
from gemma_batch.family import speed
from gemma_batch.family.gpus import GPU
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.memory import Precision
from gemma_batch.family.roofline import Limit, Workload, limit
from gemma_batch.planning.pool import make_pool, not_more_than
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.planning.sample import RouteSample
from gemma_batch.prompts.prefixes import SORTED_ROWS, WORTH_SHARE

# Time to sort the input, measured on 2 cores with rows of 92 tokens: 33 s for 20,000 rows and 48 s
# for 160,000 rows. Most of the 33 s went into the start of Ray Data's processes. The seconds per
# token are a guess.
SORT_SECONDS = 30.0
SORT_CPU_SECONDS_PER_ROW = 170e-6
SORT_CPU_SECONDS_PER_TOKEN = 0.5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimate of one route that has all of the hardware.

    Tokens are means per row. `seconds` is wall time: `start_seconds`, the start of an engine, and
    `work_seconds`, in which the rows are answered. `rows_per_second` is the speed of all the
    route's engines together, and `limit_rows_per_second` their physical limit; `bound` says whether
    arithmetic or memory sets this limit (both None on a CPU). `gpu_hours` counts the GPUs that the
    engines hold. `cost` is in the currency of the price; on a CPU, the price is per engine and
    hour.
    """

    route: str
    rows: int
    prompt_tokens: float
    cached_tokens: float
    output_tokens: float
    engines: int
    gpus: float
    rows_per_second: float
    limit_rows_per_second: float | None
    bound: Literal["compute", "memory"] | None
    start_seconds: float
    work_seconds: float
    seconds: float
    gpu_hours: float
    cost: float | None = None

    @property
    def output_tokens_per_second(self) -> float:
        """Output tokens per second of all engines together."""
        return self.rows_per_second * self.output_tokens


def estimate_routes(
    routes: Sequence[RoutePlan],
    samples: Mapping[str, RouteSample],
    rows: Mapping[str, int],
    hardware: Hardware,
    *,
    output_tokens: float,
    price: float | None = None,
    units: Mapping[str, int] | None = None,
) -> list[Estimate]:
    """One estimate for each route that has rows. Every route must have a placement.

    A route gets no estimate if its engine does not compute (a dry run). `samples` and `rows` are by
    route. `output_tokens` is the mean answer; with `max_tokens` in its place, the estimate is an
    upper bound. `price` is per GPU and hour (None: the route's `price_per_hour`). `units` are by
    route: a run starts no more engines than there are units (None: they are many). Raises
    `PlacementError` when there is no room for an engine.
    """
    return [
        _estimate(
            route,
            workload_of(samples[route.route.name], output_tokens),
            rows[route.route.name],
            hardware,
            route.resources.price_per_hour if price is None else price,
            None if units is None else units[route.route.name],
        )
        for route in routes
        if rows.get(route.route.name) and engine_class(route.resources.engine).computes
    ]


def workload_of(sample: RouteSample, output_tokens: float) -> Workload:
    """The mean row of a sample.

    The prefix cache is taken to hold everything that prompts share when they are sorted.
    """
    prompt = max(sample.mean_tokens, 1.0)
    return Workload(
        prompt_tokens=prompt, output_tokens=output_tokens, cached_tokens=prompt * sample.shared
    )


def _estimate(
    route: RoutePlan,
    work: Workload,
    rows: int,
    hardware: Hardware,
    price: float | None,
    units: int | None = None,
) -> Estimate:
    placement = route.placement
    assert placement is not None
    pool = make_pool(route, hardware)
    pool = pool if units is None else not_more_than(pool, units)
    gpu = hardware.gpu if pool.num_gpus else None
    alone = speed.rows_per_second(
        route.card,
        gpu,
        prompt_tokens=work.prompt_tokens,
        output_tokens=work.output_tokens,
        cached_tokens=work.cached_tokens,
        tensor_parallel=placement.tensor_parallel,
        precision=precision_of(route),
        engines_per_gpu=placement.engines_per_gpu,
    )
    together = alone * pool.most
    peak = engine_limit(route, gpu, work)
    gpus = pool.num_gpus * pool.most
    start = speed.start_seconds(
        route.card, gpu, precision=precision_of(route), tensor_parallel=placement.tensor_parallel
    )
    working = rows / together
    seconds = start + working
    hours = gpus * seconds / 3600
    return Estimate(
        route=route.route.name,
        rows=rows,
        prompt_tokens=round(work.prompt_tokens, 1),
        cached_tokens=round(work.cached_tokens, 1),
        output_tokens=round(work.output_tokens, 1),
        engines=pool.most,
        gpus=gpus,
        rows_per_second=round(together, 3),
        limit_rows_per_second=round(peak.rows_per_second * pool.most, 3) if peak else None,
        bound=peak.bound if peak else None,
        start_seconds=round(start, 1),
        work_seconds=round(working, 1),
        seconds=round(seconds, 1),
        gpu_hours=round(hours, 3),
        cost=None if price is None else round((gpus or pool.most) * seconds / 3600 * price, 2),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SortGain:
    """The time that sorting all rows of a route by prefix saves and takes, before the route runs.

    `window` and `whole` are shares of prompt tokens that come from the prefix cache, from 0 to 1.
    `window` holds when only the feeds sort their windows of waiting rows, `whole` when the whole
    input is sorted. Times are wall seconds.
    """

    route: str
    window: float
    whole: float
    saved_seconds: float
    sort_seconds: float

    @property
    def pays(self) -> bool:
        """Whether sorting saves more time than it takes, and enough to be sure of it."""
        enough = self.whole - self.window >= WORTH_SHARE
        return enough and self.saved_seconds > self.sort_seconds


def sort_gain(
    route: RoutePlan, sample: RouteSample, rows: int, hardware: Hardware, *, output_tokens: float
) -> SortGain:
    """The gain of sorting a route with `rows` rows and this sample. The route must be placed."""
    prompt = max(sample.mean_tokens, 1.0)
    # The feeds sort by prefix only where that gains enough, or where the spec wants it.
    ordered = sample.gain >= WORTH_SHARE or route.resources.order == "prefix"
    near = sample.sharing.sorted_together(SORTED_ROWS) if ordered else sample.sharing.in_order
    window, whole = near, max(near, sample.sharing.sorted_together(rows))

    def seconds(share: float) -> float:
        work = Workload(
            prompt_tokens=prompt, output_tokens=output_tokens, cached_tokens=prompt * share
        )
        return _estimate(route, work, rows, hardware, None).seconds

    per_row = SORT_CPU_SECONDS_PER_ROW + SORT_CPU_SECONDS_PER_TOKEN * prompt
    return SortGain(
        route=route.route.name,
        window=round(window, 4),
        whole=round(whole, 4),
        saved_seconds=round(seconds(window) - seconds(whole), 1),
        sort_seconds=round(SORT_SECONDS + rows * per_row / hardware.cpus, 1),
    )


def is_sorted(route: RoutePlan, gain: SortGain) -> bool:
    """Whether all rows of a route are sorted before it runs. The spec decides, else the plan."""
    resources = route.resources
    if resources.sort != "auto":
        return resources.sort == "always"
    computes = engine_class(resources.engine).computes
    return computes and resources.order in {"auto", "prefix"} and gain.pays


def sort_facts(
    route: RoutePlan,
    sample: RouteSample,
    rows: int,
    hardware: Hardware | None,
    *,
    output_tokens: float,
) -> dict[str, Any] | None:
    """The gain of sorting as plain data, with `planned`: whether the route will be sorted.

    None when the hardware is not known or the route has no rows.
    """
    if hardware is None or not rows:
        return None
    gain = sort_gain(route, sample, rows, hardware, output_tokens=output_tokens)
    return {**asdict(gain), "planned": is_sorted(route, gain)}


def engine_limit(route: RoutePlan, gpu: GPU | None, work: Workload) -> Limit | None:
    """The physical limit of one engine of a placed route; None on a CPU.

    Engines that share a GPU each get an equal share of the GPU's speed.
    """
    placement = route.placement
    assert placement is not None
    if gpu is None:
        return None
    found = limit(
        route.card,
        gpu,
        work,
        precision=precision_of(route),
        tensor_parallel=placement.tensor_parallel,
    )
    shared = placement.engines_per_gpu
    return Limit(
        compute_seconds=found.compute_seconds * shared,
        memory_seconds=found.memory_seconds * shared,
        concurrency=found.concurrency / shared,
        output_tokens=found.output_tokens,
    )


def precision_of(route: RoutePlan) -> Precision:
    """The precision of a placed route's weights."""
    assert route.placement is not None
    return route.placement.precision


def totals(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The sums over all routes, and the estimate of each route, as plain data.

    The sums count the routes one after the other. Routes that run side by side take no longer.
    """
    costs = [one.cost for one in estimates if one.cost is not None]
    return {
        "seconds": round(math.fsum(one.seconds for one in estimates), 1),
        "start_seconds": round(math.fsum(one.start_seconds for one in estimates), 1),
        "work_seconds": round(math.fsum(one.work_seconds for one in estimates), 1),
        "gpu_hours": round(math.fsum(one.gpu_hours for one in estimates), 3),
        "cost": round(math.fsum(costs), 2) if costs else None,
        "routes": [asdict(one) for one in estimates],
    }
