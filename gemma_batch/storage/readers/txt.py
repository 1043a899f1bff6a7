"""The reader of plain texts: a row per line, or a row per file; the column is `text`.

With a row per line, the number of a row is the number of its line: a blank line is a row with an
empty text, unless `input.txt` leaves blank lines out. With a row per file there is a second column,
`file`, with the name of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from gemma_batch.rows import Row
from gemma_batch.storage.readers.encodings import BOM, not_utf8, recoded
from gemma_batch.storage.readers.reader import Span
from gemma_batch.storage.readers.records import BadLine, RecordReader
from gemma_batch.storage.readers.text import Encoded, Line, lines, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

TEXT, FILE = "text", "file"


class TxtReader(RecordReader):
    """See the module's docstring."""

    name = "txt"
    piece = "text"

    def schema(self, file: InputFile) -> pa.Schema:
        with reading(file.url), self._opened(file, expected=0) as stream:
            stream.read(1)  # a file that cannot be opened raises now
        return pa.schema([(name, pa.string()) for name in self._columns])

    @property
    def _columns(self) -> list[str]:
        return [TEXT, FILE] if self._options.row == FILE else [TEXT]

    def records(self, stream: BinaryIO, mark: int = 0) -> Iterator[Line]:
        if self._options.row == FILE:
            return _whole(stream, self._limit)
        return lines(stream, mark, self._limit, blank=self._options.blank == "row")

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        for row in super().read(file, span, columns):
            if row.values is not None and FILE in self._columns and FILE in (columns or [FILE]):
                row.values[FILE] = file.url.rsplit("/", 1)[-1]
            yield row

    def parse(self, data: bytes | None) -> dict[str, Any]:
        if data is None:
            raise self.too_long()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as err:
            raise BadLine(not_utf8(data, self._options.encoding, err.start)) from None
        if self._options.row != FILE:
            text = text.removesuffix("\n").removesuffix("\r")
        return {TEXT: text}


def _whole(stream: BinaryIO, limit: int) -> Iterator[Line]:
    data, length = stream.read(limit + 1), 0
    if len(data) > limit:
        while more := stream.read(limit):
            length += len(more)
        yield Line(0, len(data) + length, None)
    elif data.removeprefix(BOM):
        size = len(data)
        if isinstance(stream, Encoded):
            data = recoded(data, stream.encoding)
        yield Line(0, size, data.removeprefix(BOM))
