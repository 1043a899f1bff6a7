"""Pieces: what units are put together from, parts of a shard or whole small shards (planning)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gemma_batch.storage.readers.reader import Span

# Small files in one unit. To read a file takes about a millisecond from a disk, and in an object
# store about 20 ms, of which a task spends many at the same time.
MAX_FILES = 2048


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows `span` of the shard with the number `shard`, which has `of` rows.

    With `members`, the piece holds this shard and the next ones whole; `members` are the numbers of
    their rows, and `span` counts these rows as one run from 0.
    """

    shard: int
    span: Span
    of: int
    members: tuple[int, ...] | None = None

    @property
    def end(self) -> int:
        """The number of the shard after the last one."""
        return self.shard + len(self.members or (1,))


def pieces_of(shard: int, spans: Sequence[Span]) -> list[Piece]:
    """The spans of one shard, which cover it, as pieces."""
    rows = sum(span.rows for span in spans)
    return [Piece(shard, span, rows) for span in spans]


@dataclass(slots=True)
class Heap:
    """Neighbouring pieces on their way to become one: parts of one shard, or whole shards."""

    pieces: list[Piece] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    def takes(self, new: Sequence[Piece], room: int, max_bytes: int) -> bool:
        """Whether the pieces `new`, of one shard or one of whole shards, can join those here.

        `room` is the number of rows that there is room for.
        """
        if not self.pieces or sum(piece.span.rows for piece in new) > room:
            return False
        if self.bytes + sum(piece.span.bytes for piece in new) > max_bytes:
            return False
        first, last = self.pieces[0], self.pieces[-1]
        if new[0].shard == last.shard:
            return True
        files = new[-1].end - first.shard
        return _are_whole([first, last]) and _are_whole(new) and files <= MAX_FILES

    def add(self, piece: Piece) -> None:
        """Add a piece that `takes` allows, or the first one."""
        self.pieces.append(piece)
        self.rows += piece.span.rows
        self.bytes += piece.span.bytes

    def taken(self) -> list[Piece]:
        """The pieces as one, or nothing where there is none; the heap is empty afterwards."""
        pieces, rows, weight = self.pieces, self.rows, self.bytes
        self.pieces, self.rows, self.bytes = [], 0, 0
        if len(pieces) < 2:
            return pieces
        first, last = pieces[0], pieces[-1]
        if last.shard == first.shard:
            span = Span(first.span.first_row, rows, first.span.mark, weight)
            return [Piece(first.shard, span, first.of)]
        members = [0] * (last.end - first.shard)  # shards without rows in between have no piece
        for piece in pieces:
            for shard, count in enumerate(piece.members or (piece.span.rows,), piece.shard):
                members[shard - first.shard] += count
        return [Piece(first.shard, Span(0, rows, 0, weight), rows, tuple(members))]


def _are_whole(pieces: Sequence[Piece]) -> bool:
    """Whether neighbouring pieces begin and end with whole shards."""
    first, last = pieces[0], pieces[-1]
    begins = first.members is not None or first.span.first_row == 0
    return begins and (last.members is not None or last.span.first_row + last.span.rows == last.of)
