"""The reader of JSON lines: one object per line, each parsed alone.

Blank lines are no rows. A line that is not a JSON object in UTF-8 costs one row. The types of
columns are guessed from the first rows, and can be settled on all rows (see `json_types.py`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gemma_batch.storage.readers.encodings import encoding_hint, not_utf8
from gemma_batch.storage.readers.json_types import guess_type, kinds_in
from gemma_batch.storage.readers.records import BadLine, RecordReader
from gemma_batch.storage.readers.text import reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

SAMPLED_ROWS = 1000
SAMPLED_BYTES = 64 * 2**20
NAMES = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
NAMES |= {int: "a number", float: "a number"}
DEEPEST = 100  # nested lists and objects; later code handles values by recursion


class JsonlReader(RecordReader):
    """See the module's docstring."""

    name = "jsonl"

    def schema(self, file: InputFile) -> pa.Schema:
        samples: dict[str, list[Any]] = {}
        seen = 0
        with reading(file.url), self._opened(file) as stream:
            for record in itertools.islice(self.records(stream), SAMPLED_ROWS):
                try:
                    values = self.parse(record.data)
                except BadLine:
                    continue  # the row of this line fails when the line is read
                for name, value in values.items():
                    samples.setdefault(name, []).append(value)
                seen += record.length
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

        with reading(file.url), self._opened(file) as stream:
            return kinds_in(self.records(stream), values, guesses)

    def parse(self, data: bytes | None) -> dict[str, Any]:
        if data is None:
            raise self.too_long()
        return parse_object(data, self._options.encoding)


def parse_object(data: bytes, encoding: str | None = None) -> dict[str, Any]:
    """The JSON object in `data`. Raises `BadLine` when `data` is no JSON object in UTF-8.

    `encoding` is the encoding of the file that the spec names.
    """
    try:
        values = json.loads(data.decode("utf-8").rstrip(" \t\r\n"))
    except UnicodeDecodeError as err:
        raise BadLine(not_utf8(data, encoding, err.start)) from None
    except json.JSONDecodeError as err:
        hint = encoding_hint(data) if b"\x00" in data else ""
        said = err.msg.removesuffix(" at")
        raise BadLine(f"is not JSON: {said} at character {err.pos + 1:,}{hint}") from None
    except RecursionError:
        raise BadLine("is nested too deeply") from None
    except ValueError:
        raise BadLine("has a number with too many digits") from None
    if not isinstance(values, dict):
        hint = "; if the file is one JSON array, set input.format: json"
        said = f"is not a JSON object but {NAMES[type(values)]}"
        raise BadLine(said + hint * isinstance(values, list))
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
