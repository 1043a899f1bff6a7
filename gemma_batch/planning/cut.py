"""Cut: cuts the input into units, the atoms of scheduling, commit and resume (driver, laptop)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from gemma_batch.errors import InputError
from gemma_batch.planning.flight import flight
from gemma_batch.planning.in_threads import in_threads
from gemma_batch.planning.pieces import Heap, Piece, pieces_of
from gemma_batch.planning.routing import Router
from gemma_batch.planning.unreadable import Unreadable
from gemma_batch.reading.source import unit_rows
from gemma_batch.spec import Policy
from gemma_batch.storage.readers.reader import Span
from gemma_batch.units.unit import Shard, Shards, Unit, make_mask

UNIT_ROWS_MIN, UNIT_ROWS_MAX = 64, 8192
FINEST = 32  # a largest unit has the rows of so many smallest units, each about 2 s of work
SHARES = 4  # near the end, the rows that are left make at least so many units per replica


def rows_per_unit(policy: Policy, rows_per_second: float) -> int:
    """Rows per unit: `policy.unit_rows`, or `policy.unit_seconds` of one engine's work.

    The rows by time are at least 64 and at most 8192. `rows_per_second` is the speed of one engine.
    """
    if policy.unit_rows is not None:
        return policy.unit_rows
    return int(min(max(rows_per_second * policy.unit_seconds, UNIT_ROWS_MIN), UNIT_ROWS_MAX))


def cut(
    shards: Sequence[Shard],
    router: Router,
    *,
    max_rows: int,
    max_bytes: int,
    replicas: int | None = None,
    in_flight: int = 0,
    unreadable: Unreadable | None = None,
) -> list[Unit]:
    """Cut every shard into units, in input order. A route without rows in a piece gets no unit.

    Consecutive small shards share a unit, up to `MAX_FILES` of them. With `replicas` (engines),
    units are small at both ends of the input (see `taper`, which also explains `in_flight`).
    Without `replicas`, only the limits `max_rows` and `max_bytes` set the size of units.

    Reads the footers of Parquet files, and files of other formats whole, once. With several routes,
    also reads the columns that the routes use. A shard that cannot be read is added to
    `unreadable`, which may raise its `InputError`, and counts as one row. Without `unreadable`, it
    raises.
    """
    # Cut finely first and put the pieces together afterwards, when the number of rows is known.
    finest = max_rows if replicas is None else finest_rows(max_rows)

    def index(shard: Shard) -> list[Span] | InputError:
        try:
            return shard.reader.index(shard.file, max_rows=finest, max_bytes=max_bytes)
        except InputError as err:
            return err

    found: list[list[Piece]] = []
    for shard, spans in zip(shards, in_threads(index, shards), strict=True):
        if isinstance(spans, InputError):
            if unreadable is None:
                raise spans
            unreadable.add(shard, spans)
            found.append([Piece(shard.number, Span(0, 1, 0, 0), 1, (1,))])
        else:
            found.append(pieces_of(shard.number, spans))
    groups = bundle(found, max_rows=finest, max_bytes=max_bytes)
    if replicas is None:
        pieces = [piece for group in groups for piece in group]
    else:
        pieces = taper(
            groups,
            replicas=replicas,
            max_rows=max_rows,
            max_bytes=max_bytes,
            in_flight=in_flight,
        )
    by_number = {shard.number: shard for shard in shards}
    return [unit for piece in pieces for unit in _units_of(by_number, piece, router)]


def finest_rows(max_rows: int) -> int:
    """Rows of the smallest unit, when units have different sizes."""
    return max(1, min(max_rows, max(UNIT_ROWS_MIN, max_rows // FINEST)))


def bundle(
    shards: Iterable[Sequence[Piece]], *, max_rows: int, max_bytes: int
) -> list[list[Piece]]:
    """Put consecutive shards together that are one piece each, within the limits.

    Returns groups of pieces: the pieces of one larger shard, or one piece with the rows of one or
    several whole shards. Shards without rows have no group.
    """
    groups: list[list[Piece]] = []
    heap = Heap()
    for pieces in shards:
        if len(pieces) == 1 and heap.takes(pieces, max_rows - heap.rows, max_bytes):
            heap.add(pieces[0])
        elif pieces:
            groups += [[piece] for piece in heap.taken()]
            if len(pieces) == 1:
                heap.add(pieces[0])
            else:
                groups.append(list(pieces))
    return groups + [[piece] for piece in heap.taken()]


def taper(
    groups: Sequence[Sequence[Piece]],
    *,
    replicas: int,
    max_rows: int,
    max_bytes: int,
    in_flight: int = 0,
) -> list[Piece]:
    """Put the fine pieces together: small units first, then large, small at the end.

    The pieces are those of one shard, or whole shards (see `bundle`). The first unit of each
    replica is one fine piece, and each next unit is twice as large as the unit before. So the first
    results, and the errors in them, appear after seconds. Towards the end a unit gets
    1 / (shares x replicas) of the rows that are left (guided self-scheduling, Polychronopoulos and
    Kuck 1987). So replicas that work at different speeds finish within about one small unit of each
    other. A unit has at most `max_rows` rows and `max_bytes` bytes, and at least one fine piece.

    `in_flight` is the number of requests that an engine wants. The small units of so many requests
    are bound to one replica at a time (see `flight`). There are at least as many shares: otherwise
    a slow replica would hold most of the rows that are left when the others run out of units.
    """
    sizes = [piece.span.rows for pieces in groups for piece in pieces]
    shares = max(SHARES, flight(in_flight, sizes).units)
    growing = finest_rows(max_rows)
    left = sum(sizes)
    count = room = 0
    result: list[Piece] = []
    heap = Heap()
    for group in groups:
        # A shard that fits stays whole, so that the next shard can join it.
        fits = heap.takes(group, room, max_bytes)
        for piece in group:
            if not fits and not heap.takes([piece], room, max_bytes):
                result += heap.taken()
                room = min(max_rows, left // (shares * replicas), growing)
                count += 1
                growing = min(max_rows, growing * 2) if count % replicas == 0 else growing
            heap.add(piece)
            room -= piece.span.rows
            left -= piece.span.rows
    return result + heap.taken()


def _units_of(shards: Shards, piece: Piece, router: Router) -> Iterator[Unit]:
    span = piece.span
    whole = Unit(
        shard=piece.shard,
        first_row=span.first_row,
        rows=span.rows,
        mark=span.mark,
        bytes=span.bytes,
        route=router.names[0],
        expected=span.rows,
        members=piece.members,
    )
    if len(router.names) == 1:
        yield whole
        return
    columns = sorted(router.columns)
    if piece.members is None:
        shard = shards[piece.shard]
        rows = list(shard.reader.read(shard.file, span, columns))
    else:
        rows = unit_rows(shards, whole, columns)
    numbers: dict[str, list[int]] = {}
    for row, name in zip(rows, router.assign(rows), strict=True):
        numbers.setdefault(name, []).append(row.number)
    for name in router.names:
        if mine := numbers.get(name):
            mask = make_mask(span.first_row, span.rows, mine)
            yield replace(whole, route=name, expected=len(mine), mask=mask)
