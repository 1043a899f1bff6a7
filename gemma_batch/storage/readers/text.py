"""Shared code of the line-based formats: streams, decompression and lines with byte offsets.

The length of a line bounds the memory, and `LINE_LIMIT` bounds the length of a line: a longer line
costs one row. Compressed files cannot be read from the middle. To reach a span of a compressed
file, the lines before the span are skipped.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.storage.fs import open_source

LINE_LIMIT = 128 * 2**20  # bytes
BLOCK = 4 * 2**20  # bytes per request
SMALL_BLOCK = 2**18
COUNTED = 4 * 2**20  # bytes before a mark that are read to know the number of a line
BOM = b"\xef\xbb\xbf"
CODECS = {".gz": "gzip", ".zst": "zstd"}


class Line(NamedTuple):
    """A line, its byte offset and its length in bytes.

    `data` includes the line end. It is None when the line is too long. `number` counts the lines
    from where the reading began, blank lines too, from 1.
    """

    offset: int
    length: int
    data: bytes | None
    number: int = 0


class Place:
    """Says where a row is in a file that is read from byte `mark` on, as people look for it.

    Editors count lines from the start of the file. The number of lines before a mark is known only
    when these lines are read, so far into a large file the row and its byte are named in its place.
    """

    def __init__(self, url: str, mark: int) -> None:
        self._url, self._mark = url, mark
        self._before: int | None = None if mark else 0

    def of(self, line: int, row: int, offset: int) -> str:
        """`line` counts from the mark and `row` from the start of the file, both from 1."""
        if self._before is None and self._mark <= COUNTED:
            with reading(self._url), open_source(self._url) as source:
                self._before = source.read(self._mark).count(b"\n")
        if self._before is None:
            return f"row {row:,} (at byte {offset:,}) of {self._url!r}"
        return f"line {self._before + line:,} of {self._url!r}"


@contextlib.contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn the errors of a corrupt or missing file into `InputError`.

    `StorageError` passes through unchanged.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"the input file {url!r} does not exist") from None
    except (pa.ArrowException, OSError, EOFError) as err:
        # Storage raises StorageError. Any other error comes from Arrow and is about the contents.
        raise InputError(f"the input file {url!r} is corrupt: {err}") from err


def codec(url: str) -> str | None:
    """Arrow's name for the compression, by the suffix of the file name; None for plain files."""
    return next((name for suffix, name in CODECS.items() if url.lower().endswith(suffix)), None)


@contextlib.contextmanager
def opened(url: str, *, expected: int | None = None) -> Iterator[BinaryIO]:
    """Open the file as a stream of uncompressed bytes.

    `expected` is how many bytes will be read; a small number makes small requests. Plain files can
    seek. A compressed file that is truncated or broken raises OSError while it is read.
    """
    block = BLOCK if expected is None else min(BLOCK, max(SMALL_BLOCK, expected))
    with open_source(url) as source:
        compression = codec(url)
        if compression is None:
            yield io.BufferedReader(source, block)
            return
        inner = pa.PythonFile(io.BufferedReader(source, block), mode="r")
        with pa.CompressedInputStream(inner, compression) as stream:
            yield io.BufferedReader(_Raw(stream), SMALL_BLOCK)


class _Raw(io.RawIOBase):
    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def lines(
    stream: BinaryIO, offset: int = 0, limit: int = LINE_LIMIT, *, blank: bool = False
) -> Iterator[Line]:
    """The lines from byte `offset` on; the stream must already be at `offset`.

    A line ends at a line feed. Lines longer than `limit` bytes have no data. Blank lines are left
    out unless `blank` is set. A byte order mark at the start of the file is dropped.
    """
    number = 0
    while data := stream.readline(limit):
        number += 1
        length, complete = len(data), data.endswith(b"\n") or len(data) < limit
        while not complete and (more := stream.readline(SMALL_BLOCK)):
            length += len(more)
            complete = more.endswith(b"\n")
        text: bytes | None = data
        if offset == 0 and data.startswith(BOM):
            text = data = data[len(BOM) :]
        if length > limit:
            text = None
        if blank or text is None or (text and not text.isspace()):
            yield Line(offset, length, text, number)
        offset += length
