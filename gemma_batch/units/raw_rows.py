"""Raw rows: the input rows of a unit as JSON, for its errors file (Ray CPU task, GPU actor).

The task that reads a unit packs its rows once, and they travel with the unit. So the GPU actor can
write the errors file of a unit without a second look at the input. The actor unpacks them only for
a unit in which a row failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.rows import Row
from gemma_batch.storage.keep import as_json, as_plain

RAW = pa.schema([("row", pa.large_string()), ("shard", pa.string()), ("row_number", pa.int64())])
# Level 1 is the fastest. The rows are read again only when one of them failed.
_COMPRESSED = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))


def raw_rows(rows: Sequence[Row], url: str) -> pa.Table:
    """For each row its values as JSON (null: could not be read) and its place in the input.

    `url` is the shard's. A row with an `origin` has the place that the origin names.
    """
    return pa.table(
        [
            pa.array([row_text(row) for row in rows], pa.large_string()),
            pa.array([row.origin.url if row.origin else url for row in rows], pa.string()),
            pa.array([row.origin.row if row.origin else row.number for row in rows], pa.int64()),
        ],
        schema=RAW,
    )


def row_text(row: Row) -> str | None:
    """The values of a row as JSON; null when the row could not be read.

    In place of bytes, which may be whole pictures, stand their number and their SHA-256.
    """
    if row.values is None:
        return None
    text = as_json(row.values, plain=_by_reference)
    # A text that UTF-8 cannot encode must not stop the commit of the unit.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _by_reference(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return as_plain(value)


def pack(table: pa.Table) -> pa.Buffer:
    """The table of `raw_rows` as compressed bytes (an Arrow IPC stream)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_COMPRESSED) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpack(packed: pa.Buffer) -> pa.Table:
    """The table that `pack` made the bytes of."""
    return pa.ipc.open_stream(packed).read_all()
