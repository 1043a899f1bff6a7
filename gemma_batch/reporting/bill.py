"""The bill: what the whole job takes, by a sample of its rows (driver, laptop)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gemma_batch.family import speed
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.roofline import Workload, prefill_share
from gemma_batch.planning.draw import Population
from gemma_batch.planning.estimate import precision_of
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.reporting.intervals import bootstrap
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.tried_rows import of_route
from gemma_batch.reporting.tried_speed import RouteSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the whole job takes. `seconds` count the routes one after the other, with their starts.

    Each pair is the interval of the figure before it. `cost` is in the currency of
    `price_per_hour`, and None without prices.
    """

    rows: int
    seconds: float
    seconds_interval: tuple[float, float]
    gpu_hours: float
    gpu_hours_interval: tuple[float, float]
    cost: float | None = None
    cost_interval: tuple[float, float] | None = None


def make_bill(
    every: Sequence[RoutePlan],
    speeds: Sequence[RouteSpeed],
    groups: Sequence[Sequence[ShownRow]],
    population: Population,
    hardware: Hardware,
) -> Bill | None:
    """The bill of the whole job; None where no row reached an engine.

    Each sampled row has its seconds of engine work, by its tokens and the speed of its route. The
    whole has so many rows of the mean work; the interval is that of the sample. `every` are the
    placed routes of the job, `groups` the sampled rows as they were drawn.
    """
    by_route = {one.route: one for one in speeds if one.rows_per_second}
    routes = {route.route.name: route for route in every}
    if not by_route:
        return None
    rows = [row for group in groups for row in group]
    works = {
        name: _works(routes[name], one, of_route(rows, name), hardware)
        for name, one in by_route.items()
    }

    def figures(kind: str) -> tuple[float, tuple[float, float]]:
        """The sum over all rows, and its interval; `kind` is seconds, gpu_hours or cost."""
        start = 0.0
        unit = dict.fromkeys(by_route, 1.0)
        for name, one in by_route.items():
            held = one.gpus if kind == "gpu_hours" else (one.gpus or one.engines)
            price = routes[name].resources.price_per_hour or 0.0
            if kind != "seconds":
                unit[name] = held / 3600 * (price if kind == "cost" else 1.0)
            start += (one.start_seconds or 0.0) * unit[name]

        def value(row: ShownRow) -> float:
            route = row.answers[0].route
            work = works.get(route, {}).get((row.shard, row.row_number), 0.0)
            return work and work / (by_route[route].rows_per_second or 1.0) * unit[route]

        values = [[value(row) for row in group] for group in groups]
        mean = statistics.fmean(one for group in values for one in group)
        low, high = bootstrap(values)
        # A speed that was not measured with a full engine may be as low as it was measured.
        slow = max((one.gain or 1.0) for one in by_route.values())
        whole = population.rows
        return start + whole * mean, (start + whole * low, start + whole * high * slow)

    seconds, between = figures("seconds")
    hours, hours_between = figures("gpu_hours")
    priced = any(routes[name].resources.price_per_hour is not None for name in by_route)
    cost, cost_between = figures("cost") if priced else (None, None)
    return Bill(
        rows=population.rows,
        seconds=round(seconds, 1),
        seconds_interval=_rounded(between, 1),
        gpu_hours=round(hours, 4),
        gpu_hours_interval=_rounded(hours_between, 4),
        cost=None if cost is None else round(cost, 4),
        cost_interval=None if cost_between is None else _rounded(cost_between, 4),
    )


def _rounded(pair: tuple[float, float], digits: int) -> tuple[float, float]:
    return round(pair[0], digits), round(pair[1], digits)


def _works(
    route: RoutePlan, one: RouteSpeed, rows: Sequence[ShownRow], hardware: Hardware
) -> dict[tuple[str, int], float]:
    """The work of each row that an engine saw, by its place; the mean of these rows is 1.

    The tokens of a row without an answer are not known: it counts as the mean of the others.
    """
    assert route.placement is not None
    prompt, output = max(one.prompt_tokens, 1.0), one.output_tokens
    share = prefill_share(
        route.card,
        (hardware.gpu if one.gpus else None) or speed.CPU,
        Workload(prompt_tokens=prompt, output_tokens=output, cached_tokens=one.cached_tokens),
        precision=precision_of(route),
        tensor_parallel=route.placement.tensor_parallel,
    )
    first = (share if output else 1.0) / prompt
    second = (1 - share) / output if output else 0.0
    found = {}
    for row in rows:
        answer = row.answers[0]
        if answer.attempts:
            work = 1.0
            if answer.code is None:
                work = first * (answer.prompt_tokens or 0)
                work += second * (answer.completion_tokens or 0)
            found[row.shard, row.row_number] = answer.attempts * work
    mean = statistics.fmean(found.values()) if found else 1.0
    return {place: work / mean for place, work in found.items()}
