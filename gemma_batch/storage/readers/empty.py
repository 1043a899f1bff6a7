"""The reader of files without a byte: no columns, no rows, whatever the format is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from gemma_batch.storage.readers.reader import Span

if TYPE_CHECKING:
    from gemma_batch.rows import Row
    from gemma_batch.storage.interfaces import InputFile


class EmptyReader:
    """See the module's docstring."""

    name = "empty"

    def schema(self, file: InputFile) -> pa.Schema:
        return pa.schema([])

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        return []

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, 0, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        return iter(())
