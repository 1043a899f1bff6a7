"""A reader of the plainest kind, with DuckDB and pandas alone: which rows there are, and values.

It reads one file after the other and knows nothing of the package. `same` says whether a value in
an output is the value that this reader found, by the rules in docs/inputs.md.
"""

from __future__ import annotations

import base64
import bz2
import datetime as dt
import json
import lzma
import math
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

DB = duckdb.connect(":memory:")
DB.execute("SET threads=1")
DB.execute("SET TimeZone='UTC'")


class Found(NamedTuple):
    """A row: its file and the place of that file in the list, its number in the file, its values.

    The values are None for a line that is no row.
    """

    path: str
    file: int
    number: int
    values: dict[str, Any] | None


def read(paths: list[Path], format: str, base: Path) -> list[Found]:
    """Every row of the files, in order; folders below `base` may name columns."""
    found = []
    for file, path in enumerate(paths):
        folders = _folders(path.relative_to(base))
        for number, values in enumerate(READERS[format](path) if path.stat().st_size else []):
            found.append(
                Found(str(path), file, number, None if values is None else {**values, **folders})
            )
    return found


def _folders(path: Path) -> dict[str, str | None]:
    pairs = [folder.partition("=") for folder in path.parts[:-1] if "=" in folder]
    return {
        unquote(name): None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
        for name, _, value in pairs
    }


Values = list[dict[str, Any] | None]


def _parquet(path: Path) -> Values:
    found = DB.sql("SELECT * FROM read_parquet(?, hive_partitioning=false)", params=[str(path)])
    # DuckDB renames a column whose name differs from another one only by its case.
    return _rows(found.to_arrow_table().rename_columns(pq.read_schema(path).names))


def _arrow(path: Path) -> Values:
    data = path.read_bytes()
    file = data.startswith(b"ARROW1")
    with (pa.ipc.open_file if file else pa.ipc.open_stream)(data) as source:
        return _rows(source.read_all())


def _orc(path: Path) -> Values:
    return _rows(orc.read_table(path))


def _rows(table: pa.Table) -> Values:
    columns = [column.to_pylist() for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _json(path: Path) -> Values:
    if UNPACK.keys() & {path.suffix}:  # DuckDB unpacks only the others
        plain = path.with_name(f".{path.stem}")
        plain.write_bytes(UNPACK[path.suffix](path.read_bytes()))
        found = _json(plain)
        plain.unlink()
        return found
    lines = ".jsonl" in path.name  # only there may a line be broken
    query = "SELECT json FROM read_json_objects(?, format=?, ignore_errors=?)"
    format = "newline_delimited" if lines else "auto"
    found = DB.execute(query, [str(path), format, lines]).fetchall()
    return [None if text is None else json.loads(text) for (text,) in found]


def _csv(path: Path) -> Values:
    name = path.name
    frame = pd.read_csv(
        path,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        sep="\t" if ".tsv" in name else "|" if ".psv" in name else ",",
    )
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


UNPACK: dict[str, Callable[[bytes], bytes]] = {".bz2": bz2.decompress, ".xz": lzma.decompress}
READERS: dict[str, Callable[[Path], Values]] = {
    "parquet": _parquet, "arrow": _arrow, "orc": _orc, "jsonl": _json, "json": _json,
    "csv": _csv, "tsv": _csv, "psv": _csv,
}  # fmt: skip


def output(folder: Path) -> list[dict[str, Any]]:
    """The rows of all Parquet files in a folder; none where there are no files."""
    parts = sorted(folder.glob("*.parquet"))
    if not parts:
        return []
    found = DB.sql("SELECT * FROM read_parquet(?)", params=[[str(part) for part in parts]])
    names = pq.read_schema(parts[0]).names
    return [row for row in _rows(found.to_arrow_table().rename_columns(names)) if row is not None]


# The SQL types of columns about whose values `when` says more than whether they are null.
SQL = {
    "text": "VARCHAR", "number text": "VARCHAR", "int": "BIGINT", "int64": "BIGINT",
    "int32": "INTEGER", "number": "DOUBLE", "float64": "DOUBLE",
    "date": "DATE", "timestamp": "TIMESTAMP", "decimal": "DECIMAL(12, 2)", "list": "BIGINT[]",
}  # fmt: skip


def matches(when: str, column: str, kind: str, values: list[Any]) -> list[bool]:
    """What DuckDB says of `when` for each value of a column; null is no match."""
    sql = SQL.get(kind)
    if sql is None or when.endswith("IS NULL"):
        sql, values = "BOOLEAN", [None if value is None else True for value in values]
    query = (
        f"SELECT coalesce(try(({when.format(c=column)})), false) "
        f"FROM (SELECT unnest(CAST(? AS {sql}[])) AS {column})"
    )
    return [bool(answer) for (answer,) in DB.execute(query, [values]).fetchall()]


def as_text(value: Any, kind: str) -> str:
    """The text of a value of a `kind` where it is an id or in a column of text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value)) if kind == "uuid" else base64.b64encode(value).decode()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if kind in ("float32", "float16") and math.isfinite(value):
        return str(np.dtype(kind).type(value))
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def as_shown(value: Any, kind: str) -> str:
    """The text of a value in a prompt; nothing where a value has several texts."""
    if isinstance(value, str):
        text, _, _ = value.replace("\ufdd0", "").partition("<")  # control tokens are taken apart
        return text.rstrip()
    if isinstance(value, bool | int | dt.date | dt.time):
        return "" if kind == "zoned" else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return as_text(value, kind) if isinstance(value, float | Decimal | uuid.UUID) else ""


def same(value: Any, kept: Any, kind: str) -> bool:
    """Whether `kept` is `value` after the way through a job, by the rules for its type."""
    if value is None or kept is None:
        return value is None and kept is None
    if isinstance(value, float) and math.isnan(value):
        return isinstance(kept, float) and math.isnan(kept)
    if kind in ("float32", "float16") and isinstance(value, float) and isinstance(kept, float):
        return kept in (value, float(as_text(value, kind)))  # in a wider column: as it is shown
    if isinstance(kept, str) and not isinstance(value, str):
        if isinstance(value, int | float | list | dict):
            return same(value, json.loads(kept), kind)
        return kept == as_text(value, kind)
    if isinstance(value, Mapping) and isinstance(kept, Mapping):
        return value.keys() == kept.keys() and all(same(value[k], kept[k], kind) for k in value)
    if isinstance(value, list | tuple) and isinstance(kept, list | tuple):
        return len(value) == len(kept) and all(map(same, value, kept, repeat(kind)))
    if isinstance(kept, dt.datetime) and type(value) is dt.date:
        value = dt.datetime.combine(value, dt.time())
    if isinstance(value, bool) or isinstance(kept, bool):
        return value is kept
    return bool(value == kept)
