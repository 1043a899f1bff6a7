"""Choice: the columns that `init` puts into a spec, by names, types and some values (laptop)."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.errors import InputError
from gemma_batch.planning.columns import RESERVED_COLUMNS
from gemma_batch.rows import Row
from gemma_batch.storage.readers.filled import FROM_FOLDER

TEXTS = ("text", "body", "content", "document", "doc", "prompt", "description",
         "message", "review", "comment", "instruction", "question")  # fmt: skip
IDS = {"id", "uuid", "guid"}


def text_column(schema: pa.Schema, rows: Sequence[Row]) -> str:
    """The column that a prompt is most likely about.

    A well-known name wins, then the column with the longest texts in `rows`. Raises `InputError`
    when no column can be printed.
    """
    usable = [field for field in _once(schema) if not _is_binary(field.type)]
    if not usable:
        raise InputError(
            f"no column can be put into a prompt: each is binary or has a name that another column "
            f"has too ({', '.join(map(repr, schema.names))})"
        )
    return str(max(usable, key=lambda field: _merit(field, rows)).name)


def _merit(field: pa.Field, rows: Sequence[Row]) -> tuple[float, ...]:
    words = _words(field.name)
    sizes = [len(str(value)) for value in _values(field.name, rows) if value not in (None, "")]
    known = field.name.lower() if field.name.lower() in TEXTS else words[-1]
    return (
        (field.metadata or {}) != FROM_FOLDER,
        bool(sizes) or not rows,
        _is_text(field.type),
        words[-1] not in IDS,
        known in TEXTS,
        field.name.lower() in TEXTS,
        -TEXTS.index(known) if known in TEXTS else 0,
        statistics.fmean(sizes) if sizes else 0,
    )


def id_column(schema: pa.Schema, rows: Sequence[Row]) -> str | None:
    """A column that is named like an id and has another value in each of `rows`; None without."""
    for field in _once(schema):
        values = [str(value) for value in _values(field.name, rows) if value is not None]
        named = field.name.lower() in {"key", *IDS} or _words(field.name)[-1] in IDS
        plain = _is_text(field.type) or pa.types.is_integer(field.type)
        own = (field.metadata or {}) != FROM_FOLDER
        if named and plain and own and len(set(values)) == len(_values(field.name, rows)):
            return str(field.name)
    return None


def to_keep(schema: pa.Schema) -> list[str]:
    """The columns that `output.keep` can name as they are."""
    return [field.name for field in _once(schema) if field.name.lower() not in RESERVED_COLUMNS]


def _once(schema: pa.Schema) -> list[pa.Field]:
    counts = Counter(schema.names)
    return [field for field in schema if counts[field.name] == 1]


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", spaced) if word] or [""]


def _values(name: str, rows: Sequence[Row]) -> list[Any]:
    return [(row.values or {}).get(name) for row in rows]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
