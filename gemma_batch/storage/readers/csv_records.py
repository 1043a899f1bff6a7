"""Records of CSV files: found by Python's csv module, with byte offsets, bounds and escapes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from gemma_batch.storage.readers.encodings import not_utf8
from gemma_batch.storage.readers.text import lines

HINT = (
    "; it has a quote after a backslash. If this quote belongs to the value, as in files of Spark "
    'and MySQL, set input.csv.escape: "\\\\"'
)
# Stand-ins for escaped characters while csv looks at a record. No text in UTF-8 has them, and they
# are others than those that stand for bytes that are not UTF-8.
STAND_IN = 0xD800
OLD_MAC = (
    "a line ends with a carriage return alone. If all lines do, the file has the line ends "
    "of old Macs: replace them, as with tr '\\r' '\\n'"
)
NEVER_CLOSED = "has a quote that is never closed"


class Dialect(NamedTuple):
    """How a file writes values. `quote` "" stands for no quotes, `escape` "" for no escapes."""

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    encoding: str | None = None  # what the spec names, for messages


class Record(NamedTuple):
    """One record: its place and length in bytes, and its `values` or the `problem` with them.

    `hint` is the end of a sentence about any problem with the record. `line` is the line at which
    the record begins (see `text.Line`).
    """

    offset: int
    length: int
    values: list[str] | None
    problem: str = ""
    hint: str = ""
    line: int = 0


def records(stream: BinaryIO, offset: int, limit: int, dialect: Dialect) -> Iterator[Record]:
    """The records from byte `offset` on, without blank lines; the stream is already there."""
    # csv has one limit for the whole process, on single values. The limit on whole records in
    # `_Feed` bounds the memory.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    escapes = _Escapes(dialect)
    feed = _Feed(stream, offset, limit, escapes)
    found = csv.reader(
        feed,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        strict=True,  # else the quotes of `"say "hi" twice"` would be lost without a word
    )
    while True:
        feed.start()
        values, problem = None, ""
        try:
            values = next(found)
        except StopIteration:
            return
        except (csv.Error, _TooLong) as err:
            problem = f"is not valid CSV: {OLD_MAC if 'new-line' in str(err) else err}"
        hint = HINT if feed.quoted_by_backslash else ""
        if feed.ended:
            yield Record(feed.offset, feed.taken, None, NEVER_CLOSED, hint, feed.first)
        elif values is None:
            yield Record(feed.offset, feed.taken, None, problem, hint, feed.first)
        elif values:
            values = escapes.undone(values)
            problem = _undecodable(values, dialect)
            hint = "" if problem else hint
            yield Record(feed.offset, feed.taken, values, problem, hint, feed.first)


def _undecodable(values: list[str], dialect: Dialect) -> str:
    text = "".join(values)
    try:
        text.encode()
    except UnicodeEncodeError:
        return not_utf8(text.encode("utf-8", "surrogateescape"), dialect.encoding)
    return ""


class _TooLong(Exception):
    pass


class _Escapes:
    """Hides escaped characters from csv, which would drop every escape it does not know."""

    def __init__(self, dialect: Dialect) -> None:
        self._on = bool(dialect.escape) and dialect.escape != dialect.quote
        self._quote = "\\" + dialect.quote if dialect.quote and not self._on else ""
        hidden = [dialect.escape, dialect.quote, dialect.delimiter, "\r\n", "\n", "\r"]
        hidden = [text for text in hidden if text]
        self._stand_in = {text: chr(STAND_IN + i) for i, text in enumerate(hidden)}
        self._back = {ord(char): text for text, char in self._stand_in.items()}
        any_of = "|".join(map(re.escape, hidden))
        self._pattern = re.compile(f"{re.escape(dialect.escape)}({any_of})")
        self._line_ends = tuple(self._stand_in[end] for end in ("\r\n", "\n"))

    def hide(self, line: str) -> str:
        if not self._on:
            return line
        return self._pattern.sub(lambda found: self._stand_in[found[1]], line)

    def goes_on(self, line: str) -> bool:
        """Whether the end of the hidden line is escaped, so that the record goes on."""
        return self._on and line.endswith(self._line_ends)

    def has_quote(self, line: str) -> bool:
        """Whether a line has a quote after a backslash, where no escape is set."""
        return bool(self._quote) and self._quote in line

    def undone(self, values: list[str]) -> list[str]:
        return [value.translate(self._back) for value in values] if self._on else values


class _Feed:
    """Lines for csv.reader. The reader takes only the lines that the record needs.

    A generator could not be used again after it has raised an exception. This iterator can.
    """

    def __init__(self, stream: BinaryIO, offset: int, limit: int, escapes: _Escapes) -> None:
        self._lines = lines(stream, offset, limit, blank=True)
        self._limit = limit
        self._escapes = escapes
        self.offset = self._next = offset
        self.taken = self.first = self._number = 0
        self.ended = self.quoted_by_backslash = False

    def start(self) -> None:
        """Begin a new record."""
        self.offset, self.taken, self.quoted_by_backslash = self._next, 0, False
        self.first = self._number + 1

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        text = self._line()
        if text is None:
            self.ended = True
            raise StopIteration
        parts = [text]
        while self._escapes.goes_on(parts[-1]) and (text := self._line()) is not None:
            parts.append(text)
        return "".join(parts)

    def _line(self) -> str | None:
        line = next(self._lines, None)
        if line is None:
            return None
        self._next, self._number = line.offset + line.length, line.number
        self.taken += line.length
        if line.data is None or self.taken > self._limit:
            raise _TooLong(f"a record is longer than {self._limit} bytes")
        text = line.data.decode("utf-8", "surrogateescape")
        self.quoted_by_backslash |= self._escapes.has_quote(text)
        return self._escapes.hide(text)


def plain_of(values: list[str], nulls: frozenset[str]) -> list[Any]:
    """The values, with None for each that stands for null."""
    return [None if value in nulls else value for value in values] if nulls else values
