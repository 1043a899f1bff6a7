"""Shards and units: the pieces of the input (all processes).

A unit is a run of consecutive rows of one shard, or all rows of several consecutive small shards,
on one route. Units are the atoms of scheduling, commit and resume. A unit is sized in time, so that
a crash costs about a minute per replica, and bounded by rows, bytes and files. Units are planned
once and kept in the output. Nothing in this module depends on the state of commits.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import OutputError
from gemma_batch.storage.formats import reader_for
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.parts import PartKey
from gemma_batch.storage.readers.declared import declared
from gemma_batch.storage.readers.empty import EmptyReader
from gemma_batch.storage.readers.filled import Constant, FilledReader
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.reader import Reader, Span

Mask: TypeAlias = bytes
# The number of a shard is part of the names of its parts, for good. Input files count up from 0.
# Staged copies, which a run makes of the input, count up from this number. So no input file that is
# added later gets the number of a staged copy.
FIRST_STAGED = 10_000_000

UNITS_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("first_row", pa.int64()),
        ("rows", pa.int64()),
        ("mark", pa.int64()),
        ("bytes", pa.int64()),
        ("route", pa.string()),
        ("expected", pa.int64()),
        ("mask", pa.binary()),
        ("members", pa.list_(pa.int32())),  # older versions wrote no such column
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One input file as it was when the run was planned, or a staged copy.

    `size` is in bytes. `etag` changes whenever the file does. The `number` of an input file is
    below `FIRST_STAGED`. `options` say how the reader of the `format` reads the file. `constants`
    are columns that have one value in all rows, from the names of the file's folders; a column of
    the same name in the file wins. `digest` is the SHA-256 of the contents in hex, where a growing
    input needs it, else "".
    """

    number: int
    url: str
    size: int
    etag: str
    format: str
    options: ReadOptions = field(default_factory=ReadOptions)
    constants: tuple[tuple[str, Constant], ...] = ()
    digest: str = ""

    @property
    def file(self) -> InputFile:
        """The shard as the storage room names it."""
        return InputFile(self.url, self.size, self.etag)

    @property
    def reader(self) -> Reader:
        """The reader of the shard's rows: each row has every column that is asked for.

        Raises `InputError` for an unknown format.
        """
        inner = reader_for(self.format, self.options) if self.size else EmptyReader()
        return declared(FilledReader(inner, dict(self.constants)), self.options)

    def plain(self) -> dict[str, Any]:
        """The shard as JSON can hold it; `shard_from` makes the shard again."""
        # Not `asdict`, which takes seconds for 100,000 shards.
        data = {name: getattr(self, name) for name in self.__slots__ if name not in _UNUSUAL}
        if self.options != _USUAL and (options := self.options.plain()):
            data["options"] = options
        if self.constants:
            data["constants"] = dict(self.constants)
        if self.digest:
            data["digest"] = self.digest
        return data


# Shards by their numbers: all shards of an input in order, or a dict.
Shards: TypeAlias = Mapping[int, Shard] | Sequence[Shard]
_USUAL = ReadOptions()
_UNUSUAL = {"options", "constants", "digest"}  # fields that most shards leave at their default


def shard_from(data: Mapping[str, Any]) -> Shard:
    """The shard that `Shard.plain` made the data of."""
    options = ReadOptions(**data["options"]) if data.get("options") else _USUAL
    constants = tuple(data.get("constants", {}).items())
    return Shard(**{**data, "options": options, "constants": constants})


class Place(NamedTuple):
    """The rows of a unit in one shard.

    `shard` is the number of the shard. The row `n` of the shard is the row `first + n` of the unit.
    `rows` is how many rows there are, whatever their route, and `numbers` are those of the unit,
    ascending.
    """

    shard: int
    first: int
    rows: int
    numbers: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows `first_row` to `first_row + rows - 1` of a shard, on one route; or several small shards.

    A unit with `members` holds the shards `shard`, `shard + 1` and so on whole: `members` are the
    numbers of their rows, as planned. Such a unit counts the rows of all its shards as one run from
    0 (`first_row`), one shard after the other; `places` says where they are.

    Row numbers are 0-based. `mask` has one bit per row of the run, set for each row that belongs to
    this unit. The lowest bit of the first byte is the first row. A mask of None means all rows. The
    plan settles the route of each row, and the mask keeps it, so no later state of the shard can
    lose or double a row. `expected` is the number of rows that belong to the unit. `bytes` is the
    rough size of the whole run of rows, uncompressed. `mark` is the position of the first row for
    the reader (see `Span`). A `generation` above 0 is a retry. `step` is as in `PartKey`.
    """

    shard: int
    first_row: int
    rows: int
    mark: int
    bytes: int
    route: str
    expected: int
    mask: Mask | None = None
    members: tuple[int, ...] | None = None
    generation: int = 0
    step: str | None = None

    @property
    def key(self) -> PartKey:
        """The key of the unit's part."""
        return PartKey(self.shard, self.first_row, self.route, self.generation, self.step)

    @property
    def name(self) -> str:
        """The file name of the unit's part."""
        return self.key.name

    @property
    def path(self) -> str:
        """The path of the unit's part in the output."""
        return self.key.path

    @property
    def numbers(self) -> list[int]:
        """The row numbers that belong to the unit, ascending."""
        if self.mask is None:
            return list(range(self.first_row, self.first_row + self.rows))
        # Byte by byte: the mask of a sample may have a million bits, and a hundred of them set.
        first = self.first_row
        return [
            first + 8 * at + bit
            for at, byte in enumerate(self.mask)
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]

    @property
    def shards(self) -> range:
        """The numbers of the shards that the unit is made of."""
        return range(self.shard, self.shard + (1 if self.members is None else len(self.members)))

    @property
    def places(self) -> list[Place]:
        """The shards that hold rows of the unit, in order, with the rows there."""
        if self.members is None:
            every: Sequence[int] = range(self.first_row, self.first_row + self.rows)
            return [Place(self.shard, 0, self.rows, self.numbers if self.mask else every)]
        found: list[Place] = []
        mine = None if self.mask is None else self.numbers
        first = 0
        for shard, rows in enumerate(self.members, self.shard):
            here: Sequence[int] = range(rows)
            if mine is not None:
                start, end = bisect_left(mine, first), bisect_left(mine, first + rows)
                here = [number - first for number in mine[start:end]]
            if here:
                found.append(Place(shard, first, rows, here))
            first += rows
        return found

    @property
    def span(self) -> Span:
        """The unit's run of rows as the reader names it, without the mask."""
        return Span(self.first_row, self.rows, self.mark, self.bytes)


def make_mask(first_row: int, rows: int, numbers: Iterable[int]) -> bytes:
    """The mask of a unit that holds only the rows `numbers` (0-based row numbers of the shard)."""
    mask = bytearray((rows + 7) // 8)
    for number in numbers:
        mask[(number - first_row) >> 3] |= 1 << ((number - first_row) & 7)
    return bytes(mask)


def write_units(units: Iterable[Unit], footer: Mapping[bytes, bytes] | None = None) -> bytes:
    """The units as the bytes of a Parquet file, with `footer` in the file's metadata."""
    units = list(units)
    columns = [
        pa.array([getattr(unit, field.name) for unit in units], field.type)
        for field in UNITS_SCHEMA
    ]
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, UNITS_SCHEMA, compression="zstd") as writer:
        writer.write_table(pa.table(columns, schema=UNITS_SCHEMA))
        if footer:
            writer.add_key_value_metadata(dict(footer))
    return sink.getvalue()


def read_units(data: bytes, generation: int = 0, step: str | None = None) -> list[Unit]:
    """The units in the bytes of a file that `write_units` made, with this generation and step.

    Raises `OutputError` when the bytes are no such file.
    """
    try:
        # Not `read_table`, which imports pandas where it is installed: that takes a second.
        found = pq.ParquetFile(io.BytesIO(data)).read()
        columns = [
            found[field.name] if field.name in found.column_names else pa.nulls(len(found))
            for field in UNITS_SCHEMA
        ]
        rows = pa.table(columns, UNITS_SCHEMA.names).cast(UNITS_SCHEMA).to_pylist()
    except (pa.ArrowInvalid, OSError) as err:
        raise OutputError(f"the list of units in the output cannot be read: {err}") from err
    for row in rows:
        row["members"] = None if row["members"] is None else tuple(row["members"])
    return [Unit(**row, generation=generation, step=step) for row in rows]
