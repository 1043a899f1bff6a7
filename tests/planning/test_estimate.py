"""The estimate: arithmetic on a sample, a placement and the GPU table, checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.family.gpus import find_gpu
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.roofline import Workload, limit, prefill_share
from gemma_batch.planning.estimate import (
    SORT_CPU_SECONDS_PER_ROW,
    SORT_CPU_SECONDS_PER_TOKEN,
    SORT_SECONDS,
    Estimate,
    SortGain,
    engine_limit,
    estimate_routes,
    is_sorted,
    sort_facts,
    sort_gain,
    totals,
    workload_of,
)
from gemma_batch.planning.sample import RouteSample
from gemma_batch.planning.sharing import Sharing
from gemma_batch.reporting.accounts import route_facts

from .placed import H100S, route

SAMPLE = RouteSample(rows=4, prompt_tokens=(500, 500, 500, 500), shared=0.2)


def estimate(model: str, rows: int = 1_000_000, **more: Any) -> Estimate:
    known = {"output_tokens": 100.0, **more}
    (found,) = estimate_routes([route(model)], {"all": SAMPLE}, {"all": rows}, H100S, **known)
    return found


def test_time_hours_and_cost_follow_from_each_other() -> None:
    """seconds = start + rows / speed; hours = GPUs x seconds; cost = hours x price."""
    one = estimate("google/gemma-3-4b-it", price=2.5)
    assert one.seconds == pytest.approx(
        one.start_seconds + one.rows / one.rows_per_second, rel=0.01
    )
    assert one.seconds == pytest.approx(one.start_seconds + one.work_seconds, abs=0.2)
    assert one.gpus == 8
    assert one.gpu_hours == pytest.approx(8 * one.seconds / 3600, rel=0.01)
    assert one.cost == pytest.approx(2.5 * one.gpu_hours, rel=0.01)
    assert one.output_tokens_per_second == pytest.approx(100 * one.rows_per_second)
    assert (one.cached_tokens, one.prompt_tokens) == (100.0, 500.0)
    twice = estimate("google/gemma-3-4b-it", rows=2_000_000)
    assert twice.seconds - twice.start_seconds == pytest.approx(
        2 * (one.seconds - one.start_seconds), rel=0.01
    )


def test_nothing_is_estimated_above_the_limit() -> None:
    """Engines that share a GPU share its limit; a 27B engine has two GPUs' worth."""
    for model in ("270m", "1b", "4b", "12b", "27b"):
        one = estimate(f"google/gemma-3-{model}-it")
        assert one.limit_rows_per_second is not None
        assert 0.01 < one.rows_per_second / one.limit_rows_per_second < 0.65
    shared, alone = route("google/gemma-3-1b-it"), route("google/gemma-3-1b-it", engines_per_gpu=1)
    work, gpu = workload_of(SAMPLE, 100), find_gpu("H100-80")
    half, whole = engine_limit(shared, gpu, work), engine_limit(alone, gpu, work)
    assert half is not None
    assert whole is not None
    assert 2 * half.rows_per_second == pytest.approx(whole.rows_per_second)


def test_totals_add_up_and_dry_runs_have_none() -> None:
    """Routes one after the other; what the echo engine does is no prediction."""
    routes = [route("google/gemma-3-4b-it"), route("google/gemma-3-4b-it", engine="echo")]
    found = estimate_routes(
        routes, {"all": SAMPLE}, {"all": 1000}, H100S, output_tokens=10.0, price=1.0
    )
    assert len(found) == 1
    both = totals([*found, *found])
    assert both["seconds"] == pytest.approx(2 * found[0].seconds, rel=0.01)
    assert both["start_seconds"] == pytest.approx(2 * found[0].start_seconds, rel=0.01)
    assert both["work_seconds"] == pytest.approx(2 * found[0].work_seconds, rel=0.01)
    assert both["cost"] == pytest.approx(2 * (found[0].cost or 0), abs=0.02)
    assert totals([])["cost"] is None


@pytest.mark.parametrize(("units", "engines"), [(1, 1), (3, 3), (8, 8), (500, 8)])
def test_no_more_engines_than_units_are_paid(units: int, engines: int) -> None:
    """Eight rows on eight GPUs are the work of one engine."""
    one = estimate("google/gemma-3-4b-it", rows=800, price=2.0, units={"all": units})
    assert (one.engines, one.gpus) == (engines, engines)
    assert one.cost == pytest.approx(2.0 * engines * one.seconds / 3600, abs=0.01)


def test_a_route_without_rows_is_not_estimated() -> None:
    """A predicate that takes nothing costs nothing."""
    assert not estimate_routes(
        [route("google/gemma-3-4b-it")], {"all": SAMPLE}, {}, H100S, output_tokens=10.0
    )


def test_facts_of_a_run_use_the_work_that_was_done() -> None:
    """Means over the answered rows, cached tokens included; no limit on a CPU."""
    receipts = [
        {"answered": 3, "prompt_tokens": 300, "completion_tokens": 90, "cached_tokens": 30},
        {"answered": 1, "prompt_tokens": 100, "completion_tokens": 30, "cached_tokens": 10},
    ]
    plan = route("google/gemma-3-4b-it")
    facts = route_facts(plan, 8, H100S, receipts)
    work = Workload(prompt_tokens=100, output_tokens=30, cached_tokens=10)
    gpu = find_gpu("H100-80")
    assert facts.limit_tokens_per_second == pytest.approx(
        limit(plan.card, gpu, work).output_tokens_per_second
    )
    assert facts.prefill_share == pytest.approx(prefill_share(plan.card, gpu, work), abs=1e-4)
    on_cpu = route_facts(route("google/gemma-3-270m-it", None), 1, Hardware(gpu=None), receipts)
    assert on_cpu.limit_tokens_per_second is None
    assert 0 < on_cpu.prefill_share < 1


def grouped(groups: float) -> RouteSample:
    """Prompts of 2,000 tokens, 60% of which belong to a group, at random."""
    sharing = Sharing(common=0.1, in_order=0.1, grouped=0.6, groups=groups)
    return RouteSample(rows=4, prompt_tokens=(2000,) * 4, shared=0.15, gain=0.05, sharing=sharing)


def gain(groups: float, rows: int, **resources: Any) -> SortGain:
    chosen = route("google/gemma-3-12b-it", **resources)
    return sort_gain(chosen, grouped(groups), rows, H100S, output_tokens=32)


def test_sorting_pays_where_groups_are_further_apart_than_a_feed_sees() -> None:
    """Many groups and many rows: yes. Few groups, few rows, or hardly any row per group: no."""
    far = gain(100_000, 5_000_000)
    assert far.window == pytest.approx(0.1 + 0.6 * 0.0202, abs=0.001), "4,096 rows, 100,000 groups"
    assert far.whole == pytest.approx(0.1 + 0.6 * 0.98, abs=0.001), "50 rows of each group"
    per_row = SORT_CPU_SECONDS_PER_ROW + 2000 * SORT_CPU_SECONDS_PER_TOKEN
    assert far.sort_seconds == pytest.approx(SORT_SECONDS + 5_000_000 * per_row / 64, abs=0.1)
    assert far.saved_seconds > 10 * far.sort_seconds
    assert far.pays
    assert not gain(100, 5_000_000).pays, "the feeds' windows hold 40 rows of each group"
    assert not gain(100_000, 20_000).pays
    assert not gain(1e9, 5_000_000).pays


def test_the_spec_has_the_last_word_on_sorting() -> None:
    """`always` and `never`; left to the plan, only for orders that have prefixes in mind."""
    far, near = gain(100_000, 5_000_000), gain(100, 5_000_000)

    def planned(one: SortGain, **resources: Any) -> bool:
        return is_sorted(route("google/gemma-3-12b-it", **resources), one)

    assert planned(far)
    assert planned(far, order="prefix")
    assert not planned(far, order="input")
    assert not planned(far, order="length")
    assert not planned(far, sort="never")
    assert not planned(near)
    assert planned(near, sort="always")
    assert not planned(far, engine="echo")
    assert planned(near, engine="echo", sort="always")
    chosen = route("google/gemma-3-12b-it")
    assert sort_facts(chosen, grouped(100), 10, None, output_tokens=32) is None
    facts = sort_facts(chosen, grouped(100_000), 5_000_000, H100S, output_tokens=32)
    assert facts is not None
    assert (facts["planned"], facts["whole"]) == (True, far.whole)
