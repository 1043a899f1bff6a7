"""The bill of a try: rows of the whole times measured work, on the engines of the run."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from gemma_batch.planning.draw import Population
from gemma_batch.reporting.bill import make_bill
from gemma_batch.reporting.samples import ShownAnswer, ShownRow
from gemma_batch.reporting.tried import failed_codes
from gemma_batch.reporting.tried_speed import RouteSpeed, route_speed
from tests.planning.placed import H100S, route

MODEL = "google/gemma-3-4b-it"
WHOLE = Population(rows=1_000_000, exact=True, shards=4, looked=4, clustered=False)


def row(number: int, *, output: int = 100, code: str | None = None, attempts: int = 1) -> ShownRow:
    """A sampled row with a prompt of 500 tokens, or one that failed."""
    answer = ShownAnswer(
        route="all",
        output=f"answer {number}",
        prompt_tokens=None if code else 500,
        completion_tokens=None if code else output,
        cached_tokens=0,
        attempts=attempts,
        code=code,
        message="it broke" if code else None,
    )
    return ShownRow(id=str(number), shard="s", row_number=number, prompt="p", answers=(answer,))


def receipt(rows: int, seconds: float, *, slots: int) -> dict[str, Any]:
    """A unit whose rows were all in the engine for the whole time."""
    return {
        "route": "all",
        "worker": "w",
        "born": 0.0,
        "engine_ready": 60.0,
        "timed_from": 100.0,
        "slots": slots,
        "times": [[n, 100.0, 100.0 + seconds] for n in range(rows)],
    }


SPEED = RouteSpeed(
    route="all",
    model=MODEL,
    rows=100,
    prompt_tokens=500.0,
    output_tokens=100.0,
    cached_tokens=0.0,
    engines=8,
    gpus=8,
    measured=10.0,
    running=256.0,
    slots=256,
    full=True,
    gain=1.0,
    rows_per_second=80.0,
    start_seconds=90.0,
    seconds=60.0,
)


def test_the_bill_is_rows_times_work_and_starts() -> None:
    """A million rows at 80 rows/s on 8 GPUs at 2.5 an hour, and 90 s of starts."""
    plans = [route(MODEL, price_per_hour=2.5)]
    groups = [[row(n)] for n in range(100)]
    bill = make_bill(plans, [SPEED], groups, WHOLE, H100S)
    assert bill is not None
    assert bill.seconds == pytest.approx(90 + 12_500)
    assert bill.gpu_hours == pytest.approx(8 * 12_590 / 3600, abs=1e-3)
    assert bill.cost == pytest.approx(2.5 * 8 * 12_590 / 3600, abs=1e-3)
    # All rows are alike, so the sample tells the whole.
    assert bill.seconds_interval == pytest.approx((12_590, 12_590))


def test_rows_that_no_engine_sees_cost_nothing_and_lengths_make_the_interval() -> None:
    """Half of the rows fail before an engine; the others differ in length."""
    chance = random.Random(3)
    rows = [row(n, output=chance.choice([20, 180])) for n in range(100)]
    failed = [row(n, code="null_value", attempts=0) for n in range(100, 200)]
    groups = [[one] for one in (*rows, *failed)]
    bill = make_bill([route(MODEL)], [SPEED], groups, WHOLE, H100S)
    assert bill is not None
    assert bill.seconds == pytest.approx(90 + 6_250, rel=0.01)
    low, high = bill.seconds_interval
    assert low < bill.seconds < high
    assert 0.05 < (high - low) / bill.seconds < 0.6
    assert bill.cost is None
    few = make_bill([route(MODEL)], [SPEED], groups[::4], WHOLE, H100S)
    assert few is not None
    assert few.seconds_interval[1] - few.seconds_interval[0] > 1.5 * (high - low)


def test_a_speed_that_was_not_measured_full_may_be_as_low_as_measured() -> None:
    """The upper end of the interval is that of the speed without the roofline's gain."""
    groups = [[row(n)] for n in range(100)]
    slow = replace(SPEED, full=False, gain=3.0)
    bill = make_bill([route(MODEL)], [slow], groups, WHOLE, H100S)
    assert bill is not None
    assert bill.seconds_interval == pytest.approx((12_590, 90 + 3 * 12_500))
    nothing = replace(SPEED, rows_per_second=None)
    assert make_bill([route(MODEL)], [nothing], groups, WHOLE, H100S) is None


def test_the_speed_of_a_small_sample_is_scaled_by_the_roofline() -> None:
    """32 of 256 sequences: decode steps share the weights among few rows."""
    plan = route(MODEL)
    assert plan.placement is not None
    slots = plan.placement.max_num_seqs
    few = route_speed(plan, [row(n) for n in range(32)], [receipt(32, 10.0, slots=slots)], H100S)
    assert (few.full, few.measured, few.running) == (False, 3.2, 32.0)
    assert few.gain is not None
    assert 1.5 < few.gain < slots / 32
    assert few.rows_per_second == pytest.approx(3.2 * few.gain * few.engines, rel=0.01)
    assert few.start_seconds == 60.0
    many = [row(n) for n in range(4 * slots)]
    waves = receipt(0, 0.0, slots=slots)
    waves["times"] = [[n, 100.0, 110.0 + n // slots * 10] for n in range(4 * slots)]
    full = route_speed(plan, many, [waves], H100S)
    assert (full.full, full.gain) == (True, 1.0)
    assert full.measured == pytest.approx(slots / 10, rel=0.01)


def test_rows_before_the_engine_was_warm_do_not_count() -> None:
    """The first steps of an engine are slow."""
    plan = route(MODEL)
    late = receipt(64, 10.0, slots=256)
    late["times"] += [[n, 20.0, 99.0] for n in range(100, 116)]
    found = route_speed(plan, [row(n) for n in range(80)], [late], H100S)
    assert found.measured == 6.4


def test_failures_by_code_with_their_intervals() -> None:
    """10 of 100 rows: Wilson's interval, times the whole; the most frequent code first."""
    codes = ["bad_answer"] * 10 + ["null_value"] * 2
    rows = [[row(n, code=code)] for n, code in enumerate(codes)]
    rows += [[row(n)] for n in range(20, 108)]
    first, second = failed_codes(rows, WHOLE)
    assert (first.code, first.rows, first.share, first.whole) == ("bad_answer", 10, 0.1, 100_000)
    assert (first.low, first.high) == pytest.approx((55_229, 174_366), abs=5)
    assert (first.id, first.message) == ("0", "it broke")
    assert (second.code, second.rows) == ("null_value", 2)
