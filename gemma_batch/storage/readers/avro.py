"""The reader of Avro files, by fastavro (extra `avro`): each block is a batch.

A union of several types counts as text, as a column of JSON lines with values of several types
does. Logical types are dates, times, decimals and uuids.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from gemma_batch.errors import GemmaBatchError, InputError
from gemma_batch.storage.readers.batches import Batch, BatchReader, Values

PLAIN = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "bytes": pa.binary(), "string": pa.string(),
    "enum": pa.string(),
}  # fmt: skip
LOGICAL = {
    "date": pa.date32(), "time-millis": pa.time32("ms"), "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", "UTC"), "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"), "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.string(),
}  # fmt: skip


class AvroReader(BatchReader):
    """See the module's docstring."""

    name = "avro"

    def columns(self, source: Any) -> pa.Schema:
        schema = _opened(source).writer_schema
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise OSError("its values are no records, so that it has no columns")
        return pa.schema([(one["name"], _type(one["type"], {})) for one in schema["fields"]])

    def batches(self, source: Any, place: int, columns: list[str] | None) -> Iterator[Batch]:
        blocks = _opened(source)
        if place:
            source.seek(place)
        while (block := _read(partial(next, blocks, None))) is not None:
            yield Batch(block.offset, block.num_records, partial(_values, block, columns))


def _opened(source: Any) -> Any:
    try:
        import fastavro
    except ImportError:
        raise InputError(
            "Avro files are read by fastavro: pip install 'gemma-batch[avro]', here and on every "
            "node"
        ) from None
    source.seek(0)
    return _read(lambda: fastavro.block_reader(source))


def _read(work: Any) -> Any:
    """What `work` gives; fastavro says in many ways that a file is corrupt."""
    try:
        return work()
    except (GemmaBatchError, ImportError):
        raise
    except Exception as err:
        raise OSError(f"{type(err).__name__}: {err}") from err


def _values(block: Any, columns: list[str] | None, start: int, stop: int) -> Iterator[Values]:
    records = itertools.islice(iter(block), start, max(stop, start))
    done = object()
    while (record := _read(partial(next, records, done))) is not done:
        yield Values(
            {
                name: str(value) if isinstance(value, uuid.UUID) else value
                for name, value in record.items()
                if columns is None or name in columns
            }
        )


def _type(kind: Any, named: dict[str, Any]) -> pa.DataType:
    """The Arrow type of an Avro type; `named` are the named types around it."""
    if isinstance(kind, list):
        some = [one for one in kind if one != "null"]
        return _type(some[0], named) if len(some) == 1 else PLAIN["string" if some else "null"]
    if isinstance(kind, str):
        if kind in PLAIN:
            return PLAIN[kind]
        return named.get(kind, pa.string())
    name, base = kind.get("name"), kind["type"]
    logical = kind.get("logicalType")
    if logical == "decimal" and base in ("bytes", "fixed"):
        found = pa.decimal128(min(kind["precision"], 38), kind.get("scale", 0))
    elif logical in LOGICAL:
        found = LOGICAL[logical]
    elif base == "array":
        found = pa.list_(_type(kind["items"], named))
    elif base == "map":
        found = pa.map_(pa.string(), _type(kind["values"], named))
    elif base in ("record", "error"):
        found = pa.struct([(one["name"], _type(one["type"], named)) for one in kind["fields"]])
    elif base == "fixed":
        found = pa.binary(kind["size"])
    else:
        found = _type(base, named)
    if name:
        named[name] = found
    return found
