"""Parts: the names, columns and footers of the Parquet files in an output.

A part is built in memory and put whole. Its footer carries the receipt and the failures of its
unit, so one file settles all of a unit's rows; what the receipt says is not known here.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import OutputError
from gemma_batch.spec import SINGLE_ROUTE
from gemma_batch.storage.keep import as_json, keep_column

RESULTS, ERRORS, STEPS = "results", "errors", "_run/steps"  # folders of an output
RECEIPT, FAILURES = b"gemma_batch.receipt", b"gemma_batch.failures"
NAME = re.compile(
    r"part-(\d{5,})-(\d{10,})(?:-(?!retry\d*[.-])([a-z][a-z0-9_]*))?(?:-retry([1-9]\d*))?\.parquet"
)
# Beside these, an answer's own columns stand after `id` (see `answering/answers.py`).
RESULT_COLUMNS = {
    "id": pa.string(),
    "prompt_tokens": pa.int32(),
    "completion_tokens": pa.int32(),
    "cached_tokens": pa.int32(),
    "model": pa.string(),
    "route": pa.string(),
    "attempts": pa.int32(),
    "seconds": pa.float64(),
}
ERROR_COLUMNS = {
    "id": pa.string(),
    "code": pa.string(),
    "message": pa.string(),
    "attempts": pa.int32(),
    "route": pa.string(),
    "row": pa.string(),
    "shard": pa.string(),
    "row_number": pa.int64(),
}

Column: TypeAlias = Sequence[Any] | pa.Array | pa.ChunkedArray


@dataclass(frozen=True, slots=True, order=False)
class PartKey:
    """What identifies a part in an output: a unit, by its first row, on one route of one step.

    `generation` > 0 is a retry. `step` None is the last step of the job (or its only one): its
    parts are the results.
    """

    shard: int
    first_row: int
    route: str = SINGLE_ROUTE
    generation: int = 0
    step: str | None = None

    @property
    def name(self) -> str:
        """The file name, such as 'part-00012-0000040960-long-retry1.parquet'."""
        middle = f"-{self.route}" if self.route != SINGLE_ROUTE else ""
        end = f"-retry{self.generation}" if self.generation else ""
        return f"part-{self.shard:05d}-{self.first_row:010d}{middle}{end}.parquet"

    @property
    def path(self) -> str:
        """Where the part is in the output."""
        return f"{parts_folder(self.step)}/{self.name}"

    @property
    def errors_path(self) -> str:
        """Where the errors file of the unit is, of all its generations."""
        return f"{ERRORS}/{self.base.name}"

    @property
    def base(self) -> PartKey:
        """The key of the same unit in the first generation."""
        return replace(self, generation=0)


def parts_folder(step: str | None = None) -> str:
    """The folder of a step's parts. Only the last step's are results that people read."""
    return RESULTS if step is None else f"{STEPS}/{step}"


def parse_part_name(name: str, step: str | None = None) -> PartKey | None:
    """The key of a part of a step, by its file name; None for any other file."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    return PartKey(int(match[1]), int(match[2]), match[3] or SINGLE_ROUTE, int(match[4] or 0), step)


def results_schema(keep: pa.Schema, answer: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """Kept columns, the row's id, the columns of its answer, and what is known of its way."""
    first, *rest = RESULT_COLUMNS.items()
    return pa.schema([*_nullable(keep), first, *answer, *rest])


def errors_schema(keep: pa.Schema) -> pa.Schema:
    """Kept columns, then what is known of a row without an answer."""
    return pa.schema([*_nullable(keep), *ERROR_COLUMNS.items()])


def _nullable(keep: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in keep]


def build_results(
    columns: Mapping[str, Column],
    schema: pa.Schema,
    receipt: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """A part: the columns of `schema`, its receipt, and the unit's failures (plain data)."""
    packed = pa.compress(as_json(list(failures)).encode(), "zstd", asbytes=True)
    footer = {
        RECEIPT: as_json(dict(receipt)).encode(),
        FAILURES: base64.b64encode(packed),
    }
    return _write(_table(columns, schema), footer)


def build_errors(columns: Mapping[str, Column], keep: pa.Schema) -> bytes:
    """An errors file; `row` holds the input rows as dicts (None: could not be read)."""
    rows = [None if row is None else as_json(row) for row in columns["row"]]
    return _write(_table({**columns, "row": rows}, errors_schema(keep)), {})


def _table(columns: Mapping[str, Column], schema: pa.Schema) -> pa.Table:
    return pa.table([_column(columns[f.name], f.type) for f in schema], schema=schema)


def _column(values: Column, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if values.type == kind else values.cast(kind)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        # Text that no encoding can hold must not cost a unit its commit.
        return pa.array([_encodable(value) for value in values], kind)
    except (pa.ArrowException, OverflowError):
        return keep_column(values, kind)


def _encodable(value: Any) -> Any:
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _write(table: pa.Table, footer: Mapping[bytes, bytes]) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        # Into the file's own metadata only: the schema's would be stored twice.
        if footer:
            writer.add_key_value_metadata(dict(footer))
    return sink.getvalue()


def read_receipt(source: bytes | BinaryIO | Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Receipt and failures of a part, from its footer alone. Raises `OutputError`."""
    where = getattr(source, "name", "a part")
    try:
        found = pq.read_metadata(_file(source)).metadata or {}
        packed = pa.BufferReader(base64.b64decode(found[FAILURES], validate=True))
        failures = json.loads(pa.CompressedInputStream(packed, "zstd").read())
        return json.loads(found[RECEIPT]), failures
    except (KeyError, ValueError, OSError) as err:
        raise OutputError(
            f"{where!r} is named like a part of this output but has no readable receipt "
            f"({type(err).__name__}): it is foreign or damaged; move it away and run again"
        ) from err


def row_count(source: bytes | BinaryIO | Any) -> int:
    """Rows of a Parquet file, from its footer. Raises `OutputError`."""
    try:
        return int(pq.read_metadata(_file(source)).num_rows)
    except (ValueError, OSError) as err:
        where = getattr(source, "name", "a file")
        raise OutputError(f"{where!r} is no Parquet file: move it away and run again") from err


def _file(source: Any) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source
