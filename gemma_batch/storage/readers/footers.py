"""Footers: the facts in the footer of a Parquet file, read once (driver, laptop).

A plan needs the types of the columns first and the sizes of the row groups later. Between the two
it remembers the footers, so that 100,000 files are opened once.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.storage.fs import held, open_source
from gemma_batch.storage.readers.plain import plain_type
from gemma_batch.storage.readers.text import reading
from gemma_batch.storage.whole import as_it_is

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

REMEMBERED = 2**18  # footers, about 400 bytes each; schemas that are equal are one object
TWELVE_BYTES = pa.binary(12)
TAIL_BYTES = 2**16  # Arrow's first request, for the end of a file; a smaller file is read whole


def arrow_source(url: str) -> Any:
    """The file as Arrow reads it fastest. Raises as `open_source`."""
    data = held(url)
    return open_source(url) if data is None else pa.BufferReader(data)


def parquet_file(source: Any, **options: Any) -> pq.ParquetFile:
    """The Parquet file, whose legacy timestamps (INT96) are read with microseconds."""
    return pq.ParquetFile(source, coerce_int96_timestamp_unit="us", **options)


def intervals_of(parquet: pq.ParquetFile) -> frozenset[str]:
    """The columns of Parquet's type INTERVAL, which Arrow takes for 12 bytes without a meaning."""
    if TWELVE_BYTES not in parquet.schema_arrow.types:
        return frozenset()
    schema = parquet.schema
    leaves = [schema.column(i) for i in range(len(schema))]
    return frozenset(leaf.path for leaf in leaves if leaf.converted_type == "INTERVAL")


class Footer(NamedTuple):
    """The columns of a file, as its reader gives them, and the row groups.

    `groups` has rows and uncompressed bytes of each row group that has rows.
    """

    schema: pa.Schema
    groups: tuple[tuple[int, int], ...]


_known: dict[tuple[str, int, str], Footer] = {}
_schemas: dict[tuple[bytes, frozenset[str]], pa.Schema] = {}
_lock = threading.Lock()


def footer_of(file: InputFile) -> Footer:
    """The footer of the file, as it was when this process first read it.

    Raises `InputError` when the file is corrupt or does not exist.
    """
    key = (file.url, file.size, file.etag)
    if (known := _known.get(key)) is not None:
        return known
    small = file.size <= TAIL_BYTES
    looked = as_it_is(file, TAIL_BYTES) if small else contextlib.nullcontext()
    with reading(file.url), looked, arrow_source(file.url) as source:
        parquet = parquet_file(source)
        schema, intervals, footer = parquet.schema_arrow, intervals_of(parquet), parquet.metadata
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        sizes = tuple((g.num_rows, max(0, g.total_byte_size)) for g in groups if g.num_rows)
    # The metadata of a schema may differ from file to file, and nothing needs it.
    kind = (schema.remove_metadata().serialize().to_pybytes(), intervals)
    with _lock:
        if len(_known) >= REMEMBERED:
            _known.clear()
            _schemas.clear()
        if (plain := _schemas.get(kind)) is None:
            plain = _schemas[kind] = _plain(schema, intervals)
        _known[key] = found = Footer(plain, sizes)
    return found


def _plain(schema: pa.Schema, intervals: frozenset[str]) -> pa.Schema:
    return pa.schema(
        [
            (field.name, pa.string() if field.name in intervals else plain_type(field.type))
            for field in schema
        ]
    )
