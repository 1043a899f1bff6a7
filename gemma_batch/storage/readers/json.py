"""The reader of .json files: JSON lines, one array of objects, or one object (or several).

The start of the file tells them apart. An array is split into its elements without being parsed
as a whole, so memory is bounded by the longest element. An element that is no object costs one
row. A file that ends inside an array or an object is corrupt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from gemma_batch.storage.readers.encodings import BOM, recoded
from gemma_batch.storage.readers.jsonl import JsonlReader
from gemma_batch.storage.readers.text import SMALL_BLOCK, Encoded, Line, lines

SPACE = b" \t\r\n"
# Outside of a text: a whole text without escapes, or one character that opens, ends or separates.
OUTSIDE = re.compile(rb'"[^"\\]*"|["{}\[\],]')
INSIDE = re.compile(rb'["\\]')


class JsonReader(JsonlReader):
    """See the module's docstring. The mark of a span inside an array is below 0."""

    name = "json"
    piece = "object"

    def records(self, stream: BinaryIO, mark: int = 0) -> Iterator[Line]:
        if mark < 0:
            return _elements(stream, -mark, self._limit)
        if mark > 0:
            return lines(stream, mark, self._limit)
        head = stream.peek()  # type: ignore[attr-defined]
        start = len(BOM) if head.startswith(BOM) else 0
        start += len(head[start:]) - len(head[start:].lstrip(SPACE))
        if head[start : start + 1] == b"[":
            stream.read(start + 1)
            return _elements(stream, start + 1, self._limit)
        if _is_lines(head[start:]):
            return lines(stream, 0, self._limit)
        stream.read(start)
        # Without marks: from the middle, these values could not be told from lines.
        values = split(stream, start, self._limit, array=False)
        return (value._replace(offset=0) for value in values)


def _elements(stream: BinaryIO, offset: int, limit: int) -> Iterator[Line]:
    for line in split(stream, offset, limit, array=True):
        yield line._replace(offset=-line.offset)


def _is_lines(head: bytes) -> bool:
    """Whether a file that begins with `head` holds one value per line."""
    first, *more = [line for line in head.split(b"\n") if line.strip()][:2] or [b""]
    # One line may be longer than the head. A broken line before a good one costs one row.
    return not more or _is_json(first) or _is_json(more[0])


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def split(stream: BinaryIO, offset: int, limit: int, *, array: bool) -> Iterator[Line]:
    """The elements of an array, from inside of the array on, or else values one after another.

    An element longer than `limit` bytes has no data. Raises OSError when the text ends too early
    or goes on after the array.
    """
    floor = depth = 1 if array else 0
    encoding = stream.encoding if isinstance(stream, Encoded) else None
    kept: list[bytes] = []
    length, text, escaped = 0, False, False

    def done(piece: bytes, ends: int) -> Iterator[Line]:
        nonlocal kept, length
        kept.append(piece)
        length += len(piece)
        data = b"".join(kept)
        if length > limit:
            yield Line(ends - length, length, None)
        elif data.strip(SPACE):
            text = data if encoding is None else recoded(data, encoding)
            yield Line(ends - length, length, text)
        kept, length = [], 0

    while block := stream.read(SMALL_BLOCK):
        begin = at = 0
        while at < len(block):
            if escaped:
                escaped, at = False, at + 1
                continue
            found = (INSIDE if text else OUTSIDE).search(block, at)
            if found is None:
                break
            at, mark = found.end(), found[0]
            if text:
                text, escaped = mark != b'"', mark == b"\\"
            elif mark == b'"':
                text = True
            elif mark in (b"{", b"["):
                depth += 1
            elif mark == b"," and array and depth == floor:
                yield from done(block[begin : found.start()], offset + found.start())
                begin = at
            elif mark in (b"}", b"]"):
                depth = max(depth - 1, 0)
                if depth < floor:
                    yield from done(block[begin : found.start()], offset + found.start())
                    rest = block[at:]
                    while not rest.strip(SPACE):
                        if not (rest := stream.read(SMALL_BLOCK)):
                            return
                    raise OSError(f"text follows the end of its array at byte {offset + at}")
                if not array and depth == 0:
                    yield from done(block[begin:at], offset + at)
                    begin = at
        length += len(block) - begin
        kept = [*kept, block[begin:]] if length <= limit else []
        offset += len(block)
    rest = b"".join(kept)
    if array or depth or text:
        raise OSError("it ends inside an array or an object")
    if rest.strip(SPACE):
        yield Line(offset - length, length, rest)
