"""Shared code of the text formats: streams of UTF-8, and lines with byte offsets.

A compressed file, or one in an encoding such as UTF-16, becomes a stream of UTF-8 that cannot be
read from the middle: to reach a span of such a file, the lines before the span are skipped. A file
in an encoding of one byte per character is decoded line by line. The length of a line bounds the
memory, and `LINE_LIMIT` bounds the length of a line: a longer line costs one row.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.storage.fs import open_source
from gemma_batch.storage.readers.encodings import (
    BOM,
    LOOKED_AT,
    Utf8Stream,
    encoding_of,
    one_byte,
    recoded,
)

LINE_LIMIT = 128 * 2**20  # bytes
BLOCK = 4 * 2**20  # bytes per request
SMALL_BLOCK = 2**18
COUNTED = 4 * 2**20  # bytes before a mark that are read to know the number of a line
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
# The first bytes of a compressed file; no text in UTF-8 begins with them.
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
}


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
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError) as err:
        # Storage raises StorageError. Any other error comes from Arrow and is about the contents.
        raise InputError(f"the input file {url!r} is corrupt: {err}") from err


def codec(url: str) -> str | None:
    """The name of the compression, by the suffix of the file name; None for plain files."""
    return next((name for suffix, name in CODECS.items() if url.lower().endswith(suffix)), None)


@contextlib.contextmanager
def opened(
    url: str, *, expected: int | None = None, encoding: str | None = None, at: int = 0
) -> Iterator[BinaryIO]:
    """Open the file as a stream of UTF-8, at byte `at` (above 0 only in a stream that can seek).

    `expected` is how many bytes will be read; a small number makes small requests. A byte order
    mark tells an encoding, whatever `encoding` says. Bytes that the encoding does not have become a
    byte that UTF-8 does not have. Where each character is one byte, the stream holds the bytes of
    the file and `lines` decodes them. Only the stream of a plain file can seek, in UTF-8 or such an
    encoding. A compressed file that is truncated or broken raises OSError, EOFError or LZMAError
    while it is read.
    """
    block = BLOCK if expected is None else min(BLOCK, max(SMALL_BLOCK, expected))
    with open_source(url) as source, contextlib.ExitStack() as stack:
        if at and encoding is not None and encoding_of(source.read(len(BOM)), encoding) is None:
            encoding = None
        source.seek(at)
        stream: io.BufferedReader[Any] = io.BufferedReader(source, block)
        if at:
            yield stream if encoding is None else Encoded(source, block, encoding)
            return
        head = stream.peek(LOOKED_AT)
        compression = next((c for magic, c in MAGIC.items() if head.startswith(magic)), codec(url))
        if compression is not None:
            inner = stack.enter_context(_unpacked(stream, compression))
            stream = io.BufferedReader(Piped(inner), SMALL_BLOCK)
            head = stream.peek(LOOKED_AT)
        found = encoding_of(head, encoding)
        if found and compression is None and one_byte(found):
            source.seek(0)
            yield Encoded(source, block, found)
            return
        if found:
            stream = io.BufferedReader(Piped(Utf8Stream(stream, found)), SMALL_BLOCK)
        yield stream


def _unpacked(stream: io.BufferedReader[Any], compression: str) -> Any:
    if compression == "bz2":
        return bz2.BZ2File(stream)
    if compression == "xz":
        return lzma.LZMAFile(stream)
    return pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), compression)


class Encoded(io.BufferedReader):
    """A stream of the bytes of a file in an encoding of one byte per character."""

    def __init__(self, raw: Any, block: int, encoding: str) -> None:
        super().__init__(raw, block)
        self.encoding = encoding


class Piped(io.RawIOBase):
    """A stream that cannot seek, of anything with a method `read(size)`."""

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
    encoding = stream.encoding if isinstance(stream, Encoded) else None
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
        elif encoding is not None:
            text = recoded(data, encoding)
        if blank or text is None or (text and not text.isspace()):
            yield Line(offset, length, text, number)
        offset += length
