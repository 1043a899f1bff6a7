"""Parts: the names, columns and footers of the Parquet files in an output.

A part is built in memory and put whole. The footer of a part carries the receipt and the failures
of its unit, so that one file settles all rows of the unit. This module does not know the contents
of a receipt.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.errors import OutputError
from gemma_batch.spec import SINGLE_ROUTE
from gemma_batch.storage.keep import as_json, keep_column

RESULTS, ERRORS, STEPS = "results", "errors", "_run/steps"  # folders of an output
RECEIPT, FAILURES = b"gemma_batch.receipt", b"gemma_batch.failures"
NO_ERRORS = f"{ERRORS}/part-none.parquet"  # has no rows, and is the errors file of no unit
GENERATION = b"gemma_batch.generation"  # of an errors file: the pass whose failures it holds
NAME = re.compile(
    r"part-(\d{5,})-(\d{10,})(?:-(?!retry\d*[.-])([a-z][a-z0-9_]*))?(?:-retry([1-9]\d*))?\.parquet"
)
# The columns of the answer come between `id` and the other columns (see `answering/answers.py`).
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
# The last error column, in jobs whose answers must have a shape: the text of the refused answer.
OUTPUT_COLUMN = {"output": pa.string()}

Column: TypeAlias = Sequence[Any] | pa.Array | pa.ChunkedArray


@dataclass(frozen=True, slots=True, order=False)
class PartKey:
    """The key of a part in an output: one unit on one route of one step, in one generation.

    Shard and first row identify the unit. `generation` > 0 is a retry. `step` None means the last
    step of the job, or its only step; the parts of this step are the results.
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
        """The path of the part in the output."""
        return f"{parts_folder(self.step)}/{self.name}"

    @property
    def errors_path(self) -> str:
        """The path of the unit's errors file in the output, one for all its generations."""
        return f"{errors_folder(self.step)}/{self.base.name}"

    @property
    def base(self) -> PartKey:
        """The key of the same unit in the first generation."""
        return replace(self, generation=0)


def parts_folder(step: str | None = None) -> str:
    """The folder of a step's parts. Only the parts of the last step (None) are results."""
    return RESULTS if step is None else f"{STEPS}/{step}"


def errors_folder(step: str | None = None) -> str:
    """The folder of a step's errors files. Only the last step's are errors that people read."""
    return ERRORS if step is None else f"{STEPS}-{ERRORS}/{step}"


def parse_part_name(name: str, step: str | None = None) -> PartKey | None:
    """The key of a part of a step by its file name; None for a name that is no part's."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    return PartKey(int(match[1]), int(match[2]), match[3] or SINGLE_ROUTE, int(match[4] or 0), step)


def results_schema(
    keep: pa.Schema,
    answer: Sequence[tuple[str, pa.DataType]],
    details: Sequence[tuple[str, pa.DataType]] = (),
) -> pa.Schema:
    """The columns of a part: kept columns, `id`, the answer, the other result columns, details.

    `answer` and `details` are the columns of the answer's shape. The order is the same in all
    parts of all versions, so that programs which join parts by position keep working.
    """
    first, *rest = RESULT_COLUMNS.items()
    return pa.schema([*_nullable(keep), first, *answer, *rest, *details])


def errors_schema(keep: pa.Schema, *, with_output: bool = False) -> pa.Schema:
    """The columns of an errors file: kept columns, then the error columns, then `output`."""
    last = OUTPUT_COLUMN.items() if with_output else ()
    return pa.schema([*_nullable(keep), *ERROR_COLUMNS.items(), *last])


def _nullable(keep: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in keep]


def build_results(
    columns: Mapping[str, Column],
    schema: pa.Schema,
    receipt: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """A part as the bytes of a Parquet file: the columns of `schema`, the receipt and failures.

    `receipt` and `failures` are plain data and go into the footer.
    """
    packed = pa.compress(as_json(list(failures)).encode(), "zstd", asbytes=True)
    footer = {
        RECEIPT: as_json(dict(receipt)).encode(),
        FAILURES: base64.b64encode(packed),
    }
    return _write(arrow_table(columns, schema), footer)


def build_errors(
    columns: Mapping[str, Column], keep: pa.Schema, generation: int, *, with_output: bool = False
) -> bytes:
    """An errors file as bytes, with the failures that were open after the pass `generation`."""
    footer = {GENERATION: str(generation).encode()}
    return _write(arrow_table(columns, errors_schema(keep, with_output=with_output)), footer)


def arrow_table(columns: Mapping[str, Column], schema: pa.Schema) -> pa.Table:
    """The columns of `schema` as a table; a value that does not fit its column becomes null."""
    return pa.table([_column(columns[f.name], f.type) for f in schema], schema=schema)


def _column(values: Column, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if values.type == kind else values.cast(kind)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        # A text that UTF-8 cannot encode must not stop the commit of the unit.
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
        # Parquet stores the metadata of a schema twice, so this goes into the file's metadata.
        if footer:
            writer.add_key_value_metadata(dict(footer))
    return sink.getvalue()


def read_receipt(source: bytes | BinaryIO | Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Receipt and failures of a part; reads only the footer.

    Raises `OutputError` when the file is no part or is damaged.
    """
    return _footer(source, lambda: pq.read_metadata(_file(source)).metadata)


def open_part(source: Any) -> tuple[pq.ParquetFile, dict[str, Any], list[dict[str, Any]]]:
    """A part, opened to read its rows, with its receipt and failures; reads only the footer.

    Raises `OutputError` when the file is no part or is damaged.
    """
    opened: list[pq.ParquetFile] = []

    def metadata() -> dict[bytes, bytes]:
        opened.append(pq.ParquetFile(source, pre_buffer=True))
        return opened[0].metadata.metadata or {}

    receipt, failures = _footer(source, metadata)
    return opened[0], receipt, failures


def _footer(
    source: Any, metadata: Callable[[], Mapping[bytes, bytes] | None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    where = getattr(source, "name", "a part")
    try:
        found = metadata() or {}
        packed = pa.BufferReader(base64.b64decode(found[FAILURES], validate=True))
        failures = json.loads(pa.CompressedInputStream(packed, "zstd").read())
        return json.loads(found[RECEIPT]), failures
    except (KeyError, ValueError, OSError) as err:
        raise OutputError(
            f"{where!r} is named like a part of this output but has no readable receipt "
            f"({type(err).__name__}): it is foreign or damaged; move it away and run again"
        ) from err


def read_schema(source: bytes | BinaryIO | Any) -> pa.Schema:
    """The columns of a part. Raises `OutputError` when the file is damaged."""
    try:
        return pq.read_schema(_file(source))
    except (ValueError, OSError) as err:
        where = getattr(source, "name", "a part")
        raise OutputError(f"{where!r} is no part: move it away and run again") from err


def read_errors(source: bytes | BinaryIO | Any) -> tuple[int | None, Callable[..., pa.Table]]:
    """The generation of an errors file, and a function that reads its table (or some `columns`).

    The generation is in the footer, and is None in a file of an older version. Raises
    `OutputError` when the file is damaged.
    """
    try:
        file = pq.ParquetFile(_file(source))
        generation = (file.metadata.metadata or {}).get(GENERATION)
        return None if generation is None else int(generation), file.read
    except (ValueError, OSError) as err:
        where = getattr(source, "name", "a file")
        raise OutputError(f"{where!r} is no errors file: move it away and run again") from err


def _file(source: Any) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source
