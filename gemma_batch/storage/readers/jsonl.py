"""The reader of JSON lines, plain or as .gz or .zst: one object per line, each parsed alone.

Blank lines are no rows. A line that is not a JSON object in UTF-8 costs one row. The types of
columns are guessed from the first rows, and can be settled on all rows (see `json_types.py`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gemma_batch.rows import Row
from gemma_batch.storage.readers.json_types import guess_type, kinds_in
from gemma_batch.storage.readers.reader import Cutter, Span, bad_row
from gemma_batch.storage.readers.text import LINE_LIMIT, Place, codec, lines, opened, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

SAMPLED_ROWS = 1000
SAMPLED_BYTES = 64 * 2**20
DEEPEST = 100  # nested lists and objects; later code handles values by recursion


class BadLine(ValueError):
    """Why a line is no row."""


class JsonlReader:
    """See the module's docstring."""

    name = "jsonl"
    suffixes: tuple[str, ...] = (
        ".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst",
    )  # fmt: skip

    def __init__(self, *, line_limit: int = LINE_LIMIT) -> None:
        self._limit = line_limit

    def schema(self, file: InputFile) -> pa.Schema:
        samples: dict[str, list[Any]] = {}
        seen = 0
        with reading(file.url), opened(file.url) as stream:
            for line in itertools.islice(lines(stream, limit=self._limit), SAMPLED_ROWS):
                try:
                    values = self.parse(line.data)
                except BadLine:
                    continue  # the row of this line fails when the line is read
                for name, value in values.items():
                    samples.setdefault(name, []).append(value)
                seen += line.length
                if seen > SAMPLED_BYTES:
                    break
        return pa.schema([(name, guess_type(values)) for name, values in samples.items()])

    def kinds(
        self, file: InputFile, guesses: Mapping[str, pa.DataType]
    ) -> dict[str, set[pa.DataType]]:
        """The kinds of values in the columns of `guesses`, by all rows (see `kinds_in`)."""

        def values(data: bytes) -> dict[str, Any]:
            try:
                return self.parse(data)
            except BadLine:
                return {}  # the row fails when it is read

        with reading(file.url), opened(file.url) as stream:
            return kinds_in(lines(stream, limit=self._limit), values, guesses)

    def index(self, file: InputFile, *, max_rows: int, max_bytes: int) -> list[Span]:
        cutter = Cutter(max_rows=max_rows, max_bytes=max_bytes, marks=codec(file.url) is None)
        with reading(file.url), opened(file.url) as stream:
            for line in lines(stream, limit=self._limit):
                cutter.add(line.offset, line.length)
        return cutter.flush()

    def head(self, file: InputFile, rows: int) -> Span:
        return Span(0, rows, 0, 0)

    def read(self, file: InputFile, span: Span, columns: list[str] | None) -> Iterator[Row]:
        with reading(file.url), opened(file.url, expected=span.bytes or None) as stream:
            skip = 0
            if codec(file.url) is None:
                stream.seek(span.mark)
            else:
                skip = span.first_row
            found = lines(stream, span.mark, self._limit)
            place = Place(file.url, span.mark)
            for i, line in enumerate(itertools.islice(found, skip, skip + span.rows)):
                number = span.first_row + i
                try:
                    values = self.parse(line.data)
                except BadLine as err:
                    where = place.of(line.number, number + 1, line.offset)
                    yield bad_row(number, f"{where} {err}")
                else:
                    yield Row(number, project(values, columns))

    def parse(self, data: bytes | None) -> dict[str, Any]:
        """The values of one line by column. Raises `BadLine`."""
        if data is None:
            raise BadLine(f"is longer than {self._limit} bytes")
        return parse_object(data)


def project(values: dict[str, Any], columns: list[str] | None) -> dict[str, Any]:
    """The values of `columns`, without columns that the row lacks; None keeps all values."""
    if columns is None:
        return values
    return {name: values[name] for name in columns if name in values}


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises `BadLine` when `data` is no JSON object in UTF-8."""
    try:
        values = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise BadLine(f"is not UTF-8 (byte {err.start + 1})") from None
    except json.JSONDecodeError as err:
        raise BadLine(f"is not JSON: {err.msg} at column {err.colno}") from None
    except RecursionError:
        raise BadLine("is nested too deeply") from None
    except ValueError:
        raise BadLine("has a number with too many digits") from None
    if not isinstance(values, dict):
        raise BadLine(f"is not a JSON object but {type(values).__name__}")
    if data.count(b"[") + data.count(b"{") > DEEPEST and _too_deep(values):
        raise BadLine(f"is nested more than {DEEPEST} levels deep")
    if b"\\u" in data and not _encodable(values):
        raise BadLine("has an unpaired surrogate (\\ud800 to \\udfff), which no text can hold")
    return values


def _too_deep(values: Any) -> bool:
    level = [values]
    for _ in range(DEEPEST):
        children = (x for node in level for x in (node.values() if type(node) is dict else node))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _encodable(values: Any) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
