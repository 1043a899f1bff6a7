"""The reader of Arrow files: the file format (also Feather) and the stream format.

Each record batch is checked before its values are used, as a damaged batch could point anywhere.
In a stream with dictionaries, a batch depends on those before it, so they are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from gemma_batch.storage.readers.batches import Batch, BatchReader, Values, values_of
from gemma_batch.storage.readers.plain import plain_schema

FILE, FEATHER_1 = b"ARROW1", b"FEA1"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a stream


class ArrowReader(BatchReader):
    """See the module's docstring."""

    name = "arrow"

    def columns(self, source: Any) -> pa.Schema:
        return plain_schema(_opened(source).schema)

    def batches(self, source: Any, place: int, columns: list[str] | None) -> Iterator[Batch]:
        if _start(source).startswith(FILE):
            return _of_file(source, place, columns)
        return _of_stream(source, place, columns)


def _of_file(source: Any, place: int, columns: list[str] | None) -> Iterator[Batch]:
    names = _opened(source).schema.names
    wanted = [i for i, name in enumerate(names) if columns is None or name in columns]
    # No fields at all would stand for all of them.
    file = _opened(source, pa.ipc.IpcReadOptions(included_fields=wanted or [0][: len(names)]))
    for i in range(place, file.num_record_batches):
        batch = file.get_batch(i)
        yield Batch(i, batch.num_rows, partial(_values, batch, columns))


def _of_stream(source: Any, place: int, columns: list[str] | None) -> Iterator[Batch]:
    stream = _opened(source)
    schema = stream.schema
    if any(map(_has_dictionary, schema.types)):
        for batch in stream:
            yield Batch(None, batch.num_rows, partial(_values, batch, columns))
        return
    messages = pa.PythonFile(source, mode="r")
    source.seek(0)
    pa.ipc.read_message(messages)  # the schema
    if place:
        source.seek(place)
    while True:
        at = source.tell()
        head = source.read(len(END))
        if head[:4] == bytes(4) or head == END:
            return
        if not head:
            raise OSError("it has no mark of its end, so that batches may be missing")
        source.seek(at)
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(messages), schema)
        yield Batch(at, batch.num_rows, partial(_values, batch, columns))


def _start(source: Any) -> bytes:
    source.seek(0)
    head: bytes = source.read(len(FILE))
    source.seek(0)
    return head


def _opened(source: Any, options: Any = None) -> Any:
    head = _start(source)
    if head.startswith(FEATHER_1):
        raise OSError("it is Feather version 1: write it again with a newer version of the writer")
    open_it = pa.ipc.open_file if head.startswith(FILE) else pa.ipc.open_stream
    return open_it(source, options=options)


def _values(
    batch: pa.RecordBatch, columns: list[str] | None, start: int, stop: int
) -> Iterator[Values]:
    batch.validate(full=True)
    return values_of(batch.slice(start, max(stop - start, 0)), columns)


def _has_dictionary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_dictionary(kind.storage_type)
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_dictionary(kind) or any(map(_has_dictionary, inner))
