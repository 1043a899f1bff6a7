"""The draw of a try: rows at random over all shards, and the units that hold them (driver).

Every row of the input has the same chance. Where the row counts of all shards are known at little
cost (the footers of Parquet files, or few files), the rows are drawn from all of them at once, or,
of more than `MOST_SHARDS` files, from `MOST_SHARDS` files drawn by their rows. Files of text tell
their rows only when they are read. Of many such files, some are drawn by their bytes and read, and
a row of a file with long rows is as likely to be drawn as any other. The same seed draws the same
rows, and begins with them when more rows are wanted from the same files.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gemma_batch.errors import InputError
from gemma_batch.planning.in_threads import in_threads
from gemma_batch.planning.routing import Router
from gemma_batch.planning.unreadable import Unreadable
from gemma_batch.reading.source import unit_rows
from gemma_batch.spec import Policy
from gemma_batch.storage.readers.reader import Span
from gemma_batch.units.unit import Shard, Unit, make_mask

MOST_SHARDS = 64  # a unit costs a task and a file, so a sample has few of them
# Text is read to count its rows: at most about so many bytes, but never fewer files than this.
READ_BYTES, LEAST_SHARDS = 256 * 2**20, 4
INDEXED = {"parquet", "arrow", "orc"}  # formats that tell the number of rows in an index
SPARE = 4  # the drawn files have at least so many times the wanted rows, where there are so many
FINE_ROWS, FINE_BYTES = 1024, 2**20  # of the spans in which the place of a row is known
NO_LIMIT = 2**62
UNIT_ROWS = 128  # the most rows of a unit of a sample
GAP_BYTES = 256 * 2**20  # bytes between two rows of a unit that are read for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """The input that a sample stands for.

    `rows` is the number of rows; `exact` says that it was counted, else it is an estimate by the
    bytes of the files. `shards` files have rows; the sample is of `looked` of them. `clustered`
    says that these were drawn, so that rows of one file are in the sample together.
    """

    rows: int
    exact: bool
    shards: int
    looked: int
    clustered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The drawn rows as (shard, row number), in the order of the draw."""

    rows: tuple[tuple[int, int], ...]
    spans: dict[int, list[Span]]
    population: Population


class _Deck:
    """The numbers from 0 to `size` - 1 in a random order, dealt one by one."""

    def __init__(self, size: int, chance: random.Random) -> None:
        self.left, self._chance, self._moved = size, chance, dict[int, int]()

    def deal(self) -> int:
        """The next number (the sparse shuffle of Fisher and Yates)."""
        place, last = self._chance.randrange(self.left), self.left - 1
        found = self._moved.get(place, place)
        self._moved[place] = self._moved.pop(last, last)
        self.left = last
        return found


def draw(shards: Sequence[Shard], rows: int, seed: int, unreadable: Unreadable) -> Drawn:
    """Draw `rows` rows, or all rows where there are not more.

    A shard that cannot be read counts as one row, as in a run. Raises `InputError` when too many
    cannot be read, or when there is no row.
    """
    index = _Index(unreadable)
    full = [shard for shard in shards if shard.size]
    cheap = full[0].format if full else ""
    if cheap == "parquet":
        counts = index.count(full)
        if len(full) <= MOST_SHARDS:
            index.look(full)
            return _from_all(full, counts, index, rows, seed)
        return _from_some(full, counts, MOST_SHARDS, index, rows, seed, exact=sum(counts))
    size = sum(shard.size for shard in full)
    most = MOST_SHARDS
    if cheap not in INDEXED and size > READ_BYTES:
        most = min(most, max(LEAST_SHARDS, READ_BYTES * len(full) // size))
    if len(full) <= most:
        index.look(full)
        return _from_all(full, [index.rows(shard) for shard in full], index, rows, seed)
    return _from_some(full, [shard.size for shard in full], most, index, rows, seed)


class _Index:
    """The spans of the shards that were looked at."""

    def __init__(self, unreadable: Unreadable) -> None:
        self.spans: dict[int, list[Span]] = {}
        self._unreadable = unreadable

    def count(self, shards: Sequence[Shard]) -> list[int]:
        """The rows of each shard. The spans are left out: of many large files they are many."""
        return [
            sum(span.rows for span in spans) for spans in self._read(shards, NO_LIMIT, NO_LIMIT)
        ]

    def look(self, shards: Sequence[Shard]) -> None:
        """Find the spans of shards."""
        new = [shard for shard in shards if shard.number not in self.spans]
        for shard, spans in zip(new, self._read(new, FINE_ROWS, FINE_BYTES), strict=True):
            self.spans[shard.number] = spans

    def _read(self, shards: Sequence[Shard], rows: int, weight: int) -> Iterator[list[Span]]:
        def one(shard: Shard) -> list[Span] | InputError:
            try:
                return shard.reader.index(shard.file, max_rows=rows, max_bytes=weight)
            except InputError as err:
                return err

        for shard, found in zip(shards, in_threads(one, shards), strict=True):
            if isinstance(found, InputError):
                self._unreadable.add(shard, found)
                yield [Span(0, 1, 0, 0)]
            else:
                yield found

    def rows(self, shard: Shard) -> int:
        return sum(span.rows for span in self.spans[shard.number])


def _chance(seed: int, what: str) -> random.Random:
    return random.Random(f"gemma-batch try {what} {seed}")


def _from_all(
    shards: Sequence[Shard], counts: Sequence[int], index: _Index, rows: int, seed: int
) -> Drawn:
    """Rows of all shards, each row as likely as any other."""
    ends = list(itertools.accumulate(counts))
    total = ends[-1] if ends else 0
    deck = _Deck(total, _chance(seed, "rows"))
    found = []
    for _ in range(min(rows, total)):
        place = deck.deal()
        at = bisect.bisect_right(ends, place)
        found.append((shards[at].number, place - (ends[at - 1] if at else 0)))
    full = sum(1 for count in counts if count)
    population = Population(rows=total, exact=True, shards=full, looked=full, clustered=False)
    return Drawn(rows=tuple(found), spans=index.spans, population=population)


def _from_some(
    shards: Sequence[Shard],
    weights: Sequence[int],
    most: int,
    index: _Index,
    rows: int,
    seed: int,
    *,
    exact: int | None = None,
) -> Drawn:
    """Rows of `most` shards or more, drawn with replacement with chances by `weights`.

    A drawn shard gets rows in proportion to its rows per weight. So the chance of a row is
    weight x (rows / weight) / rows: the same for every row of the input, as nearly as the drawn
    shards have the mean of all rows per weight. `exact` is the number of rows, where it is known.
    """
    ends = list(itertools.accumulate(weights))
    chance = _chance(seed, "shards")
    drawn: list[int] = []
    while True:
        for _ in range(most):
            drawn.append(bisect.bisect_right(ends, chance.randrange(ends[-1])))
        index.look([shards[at] for at in sorted(set(drawn))])
        there = sum(index.rows(shards[at]) for at in set(drawn))
        if there >= SPARE * rows or len(set(drawn)) == len(shards) or len(drawn) > 4 * len(shards):
            break
    dense = [index.rows(shards[at]) / weights[at] for at in drawn]
    estimate = ends[-1] * sum(dense) / len(dense)
    population = Population(
        rows=max(there, round(estimate)) if exact is None else exact,
        exact=exact is not None,
        shards=len(shards),
        looked=len(set(drawn)),
        clustered=True,
    )
    found = tuple(_dealt(shards, drawn, dense, index, rows, _chance(seed, "rows")))
    return Drawn(rows=found, spans=index.spans, population=population)


def _dealt(
    shards: Sequence[Shard],
    drawn: Sequence[int],
    dense: Sequence[float],
    index: _Index,
    rows: int,
    chance: random.Random,
) -> Iterator[tuple[int, int]]:
    decks = {at: _Deck(index.rows(shards[at]), chance) for at in drawn}
    ends = list(itertools.accumulate(dense))
    for _ in range(rows):
        if not any(deck.left for deck in decks.values()):
            return
        while True:
            at = drawn[min(bisect.bisect_right(ends, chance.random() * ends[-1]), len(drawn) - 1)]
            if decks[at].left:
                break
        yield shards[at].number, decks[at].deal()


def sample_units(
    shards: Sequence[Shard],
    drawn: Drawn,
    router: Router,
    policy: Policy,
) -> list[Unit]:
    """The drawn rows as units, each with a mask of its rows, in the order of the input.

    Reads the columns that the routes use, where there are several routes.
    """
    by_number = {shard.number: shard for shard in shards}
    wanted: dict[int, list[int]] = {}
    for shard, number in sorted(drawn.rows):
        wanted.setdefault(shard, []).append(number)
    units: list[Unit] = []
    for shard, numbers in wanted.items():
        for group, spans in _groups(numbers, drawn.spans[shard], policy):
            whole = _unit(shard, spans, group, router.names[0])
            if len(router.names) == 1:
                units.append(whole)
                continue
            rows = unit_rows(by_number, whole, sorted(router.columns))
            mine: dict[str, list[int]] = {}
            for row, name in zip(rows, router.assign(rows), strict=True):
                mine.setdefault(name, []).append(row.number)
            units += [
                replace(
                    whole,
                    route=name,
                    expected=len(mine[name]),
                    mask=make_mask(whole.first_row, whole.rows, mine[name]),
                )
                for name in router.names
                if name in mine
            ]
    return units


def _groups(
    numbers: Sequence[int], spans: Sequence[Span], policy: Policy
) -> Iterator[tuple[list[int], list[Span]]]:
    """The rows of a unit each, and the spans from the first of them to the last."""
    ends = [span.first_row + span.rows for span in spans]
    most = min(policy.unit_rows or UNIT_ROWS, UNIT_ROWS)
    group: list[int] = []
    first = last = weight = 0
    for number in numbers:
        at = bisect.bisect_right(ends, number)
        mine = spans[at].bytes // max(spans[at].rows, 1)
        between = sum(span.bytes for span in spans[last + 1 : at]) if group else 0
        # A unit begins with a span, so that no two units of a shard begin with the same row.
        full = len(group) >= most or weight + mine > policy.unit_bytes or between > GAP_BYTES
        if group and at != last and full:
            yield group, list(spans[first : last + 1])
            group, weight = [], 0
        if not group:
            first = at
        group.append(number)
        last, weight = at, weight + mine
    yield group, list(spans[first : last + 1])


def _unit(shard: int, spans: Sequence[Span], numbers: Sequence[int], route: str) -> Unit:
    first = spans[0].first_row
    rows = numbers[-1] + 1 - first
    return Unit(
        shard=shard,
        first_row=first,
        rows=rows,
        mark=spans[0].mark,
        bytes=sum(span.bytes for span in spans),
        route=route,
        expected=len(numbers),
        mask=make_mask(first, rows, numbers),
    )
