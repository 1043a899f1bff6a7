"""Intervals: they hold the truth in about 95 of 100 samples."""

from __future__ import annotations

import random

import pytest

from gemma_batch.reporting.intervals import bootstrap, effect, grouped, wilson


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (0, 200, 0.0, 0.0188),  # from the tables of Brown, Cai and DasGupta 2001
        (10, 100, 0.0552, 0.1744),
        (50, 100, 0.4038, 0.5962),
        (200, 200, 0.9812, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(count: int, of: int, low: float, high: float) -> None:
    """Known intervals; 0 and all rows have a side that is not 0."""
    assert wilson(count, of) == pytest.approx((low, high), abs=1e-4)


def test_the_bootstrap_holds_the_mean_in_most_samples() -> None:
    """Skewed values, as lengths of answers are."""
    chance = random.Random(5)
    hits = 0
    for _ in range(60):
        values = [[chance.expovariate(1.0)] for _ in range(100)]
        low, high = bootstrap(values)
        hits += low <= 1.0 <= high
    assert hits >= 52


def test_rows_of_one_file_that_are_alike_widen_the_interval() -> None:
    """Ten files of twenty equal rows tell as much as ten rows."""
    rows = [(file, float(file % 2)) for file in range(10) for _ in range(20)]
    groups = grouped(rows, lambda row: row[0])
    values = [[value for _, value in group] for group in groups]
    assert 15 < effect(values) < 25
    assert effect([[value] for _, value in rows]) == 1.0
    wide, narrow = bootstrap(values), bootstrap([[value] for _, value in rows])
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_a_sample_without_values_has_no_interval() -> None:
    """It is not a sample."""
    with pytest.raises(ValueError, match="without values"):
        bootstrap([[]])
