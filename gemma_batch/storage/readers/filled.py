"""The reader of every shard: gives each row all columns, whatever its file has (every process).

A column that the file or the row lacks comes from the names of the file's folders, or is null. So
a row is the same for templates, `when`, ids and kept columns in every format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from gemma_batch.storage.readers.reader import Reader, Span

if TYPE_CHECKING:
    from gemma_batch.rows import Row
    from gemma_batch.storage.interfaces import InputFile

Constant = str | int | None
FROM_FOLDER = {b"gemma_batch.from": b"folder"}  # metadata of a field that no file has


class FilledReader:
    """Reads as `inner` reads. `constants` are the values of columns that a file may lack."""

    def __init__(self, inner: Reader, constants: Mapping[str, Constant]) -> None:
        self.name = inner.name
        self._inner, self._constants = inner, dict(constants)

    def schema(self, file: InputFile) -> pa.Schema:
        schema = self._inner.schema(file)
        for name, value in self._constants.items():
            if name not in schema.names:
                kind = pa.null() if value is None else pa.scalar(value).type
                schema = schema.append(pa.field(name, kind, metadata=FROM_FOLDER))
        return schema

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        return self._inner.index(file, max_rows=max_rows, max_bytes=max_bytes)

    def head(self, file: InputFile, rows: int) -> Span:
        return self._inner.head(file, rows)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        """As the protocol says, but each row has every one of the `columns`."""
        constants = self._constants
        for row in self._inner.read(file, span, columns):
            values = row.values
            if values is not None and columns is None:
                row.values = {**constants, **values}
            elif values is not None and columns is not None and len(values) < len(columns):
                found = {**constants, **values}
                row.values = {name: found.get(name) for name in columns}
            yield row
