"""Cutting: every row is in exactly one unit, whatever its route; sizes follow time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.planning.cut import SHARES, bundle, cut, finest_rows, rows_per_unit, taper
from gemma_batch.planning.flight import flight
from gemma_batch.planning.pieces import MAX_FILES, Piece, pieces_of
from gemma_batch.planning.routing import Router
from gemma_batch.spec import Policy, Route
from gemma_batch.storage.readers.reader import Span
from tests.units.test_unit import SCHEMA, shards


@pytest.mark.parametrize("whens", [[], ["n % 3 = 0"], ["n < 5", "n % 2 = 0"], ["n > 1000"]])
def test_every_row_is_in_exactly_one_unit(tmp_path: Path, whens: list[str]) -> None:
    """Across shards, row groups and routes; and a route without rows has no unit."""
    routes = [Route(name=f"r{i}", model="m", when=when) for i, when in enumerate(whens)]
    router = Router([*routes, Route(name="rest", model="m")], SCHEMA)
    sizes = [20, 1, 33]
    units = cut(shards(tmp_path, sizes), router, max_rows=8, max_bytes=10**6)
    seen = sorted(
        (place.shard, number) for unit in units for place in unit.places for number in place.numbers
    )
    assert seen == [(shard, n) for shard, size in enumerate(sizes) for n in range(size)]
    assert all(unit.expected == len(unit.numbers) > 0 for unit in units)
    assert all(unit.rows <= 8 for unit in units)
    assert len({unit.name for unit in units}) == len(units), "two units would share a part"
    assert not any(unit.route == "r0" for unit in units) or whens != ["n > 1000"]


@pytest.mark.parametrize(("speed", "rows"), [(0.01, 64), (10, 600), (100, 6000), (1e6, 8192)])
def test_a_unit_is_a_minute_of_work_within_bounds(speed: float, rows: int) -> None:
    """64 to 8,192 rows, unless the policy says a number."""
    assert rows_per_unit(Policy(), speed) == rows
    assert rows_per_unit(Policy(unit_rows=5), speed) == 5


def fine(rows: int, size: int, weight: int = 10, shard: int = 0) -> list[Piece]:
    """A shard of `rows` rows in pieces of `size`; a row weighs `weight` bytes."""
    return pieces_of(
        shard,
        [
            Span(first, min(size, rows - first), first * weight, min(size, rows - first) * weight)
            for first in range(0, rows, size)
        ],
    )


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    st.integers(1, 16),
    st.integers(8, 2000),
    st.integers(100, 10**5),
)
def test_tapered_units_hold_every_row_once_within_the_limits(
    sizes: list[int], replicas: int, max_rows: int, max_bytes: int
) -> None:
    """Only whole fine pieces are put together, in order: parts of one shard, or whole shards."""
    shards = [fine(size, min(64, max_rows), shard=n) for n, size in enumerate(sizes)]
    groups = bundle(shards, max_rows=min(64, max_rows), max_bytes=max_bytes)
    tapered = taper(groups, replicas=replicas, max_rows=max_rows, max_bytes=max_bytes)
    found = [place for piece in tapered for place in rows_of(piece)]
    assert found == [(shard, n) for shard, size in enumerate(sizes) for n in range(size)]
    before = [piece for group in shards for piece in group]
    assert sum(one.span.bytes for one in tapered) == sum(one.span.bytes for one in before)
    parts = [piece for piece in tapered if piece.members is None]
    assert {one.span.mark for one in parts} <= {one.span.mark for one in before}
    least = max(one.span.bytes for one in before)
    assert all(one.span.rows <= max_rows for one in tapered)
    assert all(one.span.bytes <= max(max_bytes, least) for one in tapered)


def rows_of(piece: Piece) -> list[tuple[int, int]]:
    """Shard and row number of every row of the piece."""
    if piece.members is None:
        first = piece.span.first_row
        return [(piece.shard, n) for n in range(first, first + piece.span.rows)]
    return [(piece.shard + i, n) for i, rows in enumerate(piece.members) for n in range(rows)]


@pytest.mark.parametrize(
    ("sizes", "most", "parts"),
    [
        ([1] * 10, 4, [(0, 4), (4, 4), (8, 2)]),
        ([1, 2, 3, 4], 6, [(0, 6), (3, 4)]),
        ([1, 0, 0, 1], 6, [(0, 2)]),
        ([1, 9, 1, 1], 6, [(0, 1), (1, 3), (1, 4), (1, 2), (2, 2)]),
        ([0, 0], 6, []),
    ],
)
def test_small_files_share_a_unit_and_large_ones_do_not(
    tmp_path: Path, sizes: list[int], most: int, parts: list[tuple[int, int]]
) -> None:
    """First shard and rows of each unit; a shard that is cut shares none of its units."""
    router = Router([Route(name="rest", model="m")], SCHEMA)
    units = cut(shards(tmp_path, sizes), router, max_rows=most, max_bytes=10**6)
    assert [(unit.shard, unit.rows) for unit in units] == parts


def test_a_unit_has_a_bounded_number_of_files() -> None:
    """To read a file takes time, however few rows it has; and the ends stay small."""
    files = [fine(1, 1, shard=n) for n in range(20_000)]
    groups = bundle(files, max_rows=finest_rows(8192), max_bytes=10**9)
    pieces = taper(groups, replicas=2, max_rows=8192, max_bytes=10**9)
    sizes = [len(piece.members or ()) for piece in pieces]
    assert sum(sizes) == 20_000
    assert 1000 < max(sizes) <= MAX_FILES
    assert sizes[:2] == [256, 256]
    assert sizes[-1] <= 256
    assert len(sizes) < 40


def test_units_are_small_at_both_ends() -> None:
    """The first results come after seconds, and replicas end together; large in between."""
    pieces = taper([fine(200_000, 187)], replicas=4, max_rows=6000, max_bytes=10**9)
    sizes = [piece.span.rows for piece in pieces]
    assert sizes[:4] == [187] * 4
    assert sizes[4:8] == [374] * 4
    assert max(sizes) > 5000
    assert sizes[-1] <= 187
    top = sizes.index(max(sizes))
    assert sizes[:top] == sorted(sizes[:top])
    assert sizes[top:-1] == sorted(sizes[top:-1], reverse=True)
    left = 200_000
    for size in sizes:  # however the others fare, one unit is a small part of what is left
        assert size <= max(187, left / (SHARES * 4))
        left -= size


@given(st.floats(0.5, 2.0), st.integers(2, 8))
def test_replicas_of_different_speed_finish_together(slow: float, replicas: int) -> None:
    """The last replica works alone for at most a few units of the smallest size."""
    pieces = taper([fine(50_000, 64)], replicas=replicas, max_rows=6000, max_bytes=10**9)
    free = [0.0] * replicas
    for piece in pieces:  # the next unit goes to whoever is free first
        worker = min(range(replicas), key=free.__getitem__)
        free[worker] += piece.span.rows * (slow if worker == 0 else 1.0)
    assert max(free) - min(free) <= 64 * max(slow, 1.0) * (1 + SHARES)


@pytest.mark.parametrize(
    ("replicas", "speed", "seconds", "in_flight"),
    [(8, 40, 1333, 1024), (4, 40, 600, 1024), (4, 100, 600, 1024), (4, 25, 300, 64)],
)
def test_engines_whose_speeds_differ_end_together_although_units_are_bound(
    replicas: int, speed: int, seconds: int, in_flight: int
) -> None:
    """Every second engine is 20% slower; an actor keeps the units that it was given."""
    most = rows_per_unit(Policy(), speed)
    shards = [fine(replicas * speed * seconds, finest_rows(most))]
    pieces = taper(shards, replicas=replicas, max_rows=most, max_bytes=10**9, in_flight=in_flight)
    sizes = [piece.span.rows for piece in pieces]
    held: list[list[int]] = [[] for _ in range(replicas)]
    ends = [0.0] * replicas  # when the first unit that an actor holds is done
    waiting, now = list(reversed(sizes)), 0.0
    while waiting or any(held):
        while waiting:
            actor = min(range(replicas), key=lambda n: len(held[n]))
            if len(held[actor]) == flight(in_flight, sizes).units:
                break
            held[actor].append(waiting.pop())
            if len(held[actor]) == 1:
                ends[actor] = now + held[actor][0] / (speed * (0.8 if actor % 2 else 1))
        actor = min((n for n in range(replicas) if held[n]), key=lambda n: ends[n])
        now = ends[actor]
        held[actor].pop(0)
        if held[actor]:
            ends[actor] += held[actor][0] / (speed * (0.8 if actor % 2 else 1))
    assert max(ends) - min(ends) <= 0.05 * max(ends)


def test_a_job_with_a_fixed_unit_size_keeps_it(tmp_path: Path) -> None:
    """`policy.unit_rows` is a promise; only sizes of our own choice shrink."""
    router = Router([Route(name="rest", model="m")], SCHEMA)
    found = shards(tmp_path, [700])
    fixed = cut(found, router, max_rows=350, max_bytes=10**6)
    assert {unit.rows for unit in fixed} == {350}
    tapered = cut(found, router, max_rows=350, max_bytes=10**6, replicas=1)
    seen = [number for unit in tapered for number in unit.numbers]
    assert seen == list(range(700))
    assert len({unit.rows for unit in tapered}) > 2
