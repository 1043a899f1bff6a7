"""The estimate: how long a job takes on named hardware, what it costs, and what it could take.

Arithmetic on a sample, a placement and the GPU table; nothing is measured. Good to a factor of
two; the report says how far off it was.
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
from gemma_batch.planning.plan import RoutePlan
from gemma_batch.planning.pool import make_pool
from gemma_batch.planning.sample import RouteSample
from gemma_batch.prompts.prefixes import SORTED_ROWS, WORTH_SHARE

# Sorting the input, measured on 2 cores with rows of 92 tokens: 33 s for 20,000 of them and 48 s
# for 160,000, most of the first in starting Ray Data's processes. What a token costs is a guess.
SORT_SECONDS = 30.0
SORT_CPU_SECONDS_PER_ROW = 170e-6
SORT_CPU_SECONDS_PER_TOKEN = 0.5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One route on all of the hardware. Tokens are means per row; `seconds` is wall time.

    `limit_rows_per_second` and `bound` are the physical limit of all its engines together (None on
    a CPU). `gpu_hours` counts the GPUs its engines hold; `cost` is in the currency of the price
    (which is an engine's on a CPU).
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
    seconds: float
    gpu_hours: float
    cost: float | None = None

    @property
    def output_tokens_per_second(self) -> float:
        """All engines together."""
        return self.rows_per_second * self.output_tokens


def estimate_routes(
    routes: Sequence[RoutePlan],
    samples: Mapping[str, RouteSample],
    rows: Mapping[str, int],
    hardware: Hardware,
    *,
    output_tokens: float,
    price: float | None = None,
) -> list[Estimate]:
    """An estimate per placed route with rows; `price` is per GPU and hour (None: the route's own).

    Routes of an engine that does not compute (a dry run) have none. `output_tokens` is the mean
    answer; with `max_tokens` the estimate is an upper bound. Raises `PlacementError` when there is
    no room for an engine.
    """
    return [
        _estimate(
            route,
            workload_of(samples[route.route.name], output_tokens),
            rows[route.route.name],
            hardware,
            route.resources.price_per_hour if price is None else price,
        )
        for route in routes
        if rows.get(route.route.name) and engine_class(route.resources.engine).computes
    ]


def workload_of(sample: RouteSample, output_tokens: float) -> Workload:
    """The mean row: what prompts share when they are sorted is taken to be cached."""
    prompt = max(sample.mean_tokens, 1.0)
    return Workload(
        prompt_tokens=prompt, output_tokens=output_tokens, cached_tokens=prompt * sample.shared
    )


def _estimate(
    route: RoutePlan, work: Workload, rows: int, hardware: Hardware, price: float | None
) -> Estimate:
    placement = route.placement
    assert placement is not None
    pool = make_pool(route, hardware)
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
    seconds = start + rows / together
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
        seconds=round(seconds, 1),
        gpu_hours=round(hours, 3),
        cost=None if price is None else round((gpus or pool.most) * seconds / 3600 * price, 2),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SortGain:
    """What sorting all rows of a route by prefix is worth, before they are run.

    `window` and `whole` are shares of prompt tokens from the prefix cache: with windows of waiting
    rows sorted by the engines' feeds, and with the whole input sorted. Times are wall seconds.
    """

    route: str
    window: float
    whole: float
    saved_seconds: float
    sort_seconds: float

    @property
    def pays(self) -> bool:
        """Whether it saves more than it takes, and enough to be sure of that."""
        enough = self.whole - self.window >= WORTH_SHARE
        return enough and self.saved_seconds > self.sort_seconds


def sort_gain(
    route: RoutePlan, sample: RouteSample, rows: int, hardware: Hardware, *, output_tokens: float
) -> SortGain:
    """What sorting is worth for a placed route of `rows` rows with such a sample."""
    prompt = max(sample.mean_tokens, 1.0)
    # Without a gain the feeds keep the rows' own order.
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
    """Whether all rows of a route are sorted before it runs: the spec's word, or the plan's."""
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
    """What sorting is worth as plain data, and whether it is `planned`; None where nobody knows."""
    if hardware is None or not rows:
        return None
    gain = sort_gain(route, sample, rows, hardware, output_tokens=output_tokens)
    return {**asdict(gain), "planned": is_sorted(route, gain)}


def engine_limit(route: RoutePlan, gpu: GPU | None, work: Workload) -> Limit | None:
    """The physical limit of one engine of a placed route; None on a CPU.

    Engines that share a GPU have a share of its speed each.
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
    """The precision that a route's weights have on a GPU."""
    return route.resources.precision or "bf16"


def totals(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """All routes one after the other, as plain data; side by side they take no longer."""
    costs = [one.cost for one in estimates if one.cost is not None]
    return {
        "seconds": round(math.fsum(one.seconds for one in estimates), 1),
        "gpu_hours": round(math.fsum(one.gpu_hours for one in estimates), 3),
        "cost": round(math.fsum(costs), 2) if costs else None,
        "routes": [asdict(one) for one in estimates],
    }
