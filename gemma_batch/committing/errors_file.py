"""Builds the errors file of a unit, for the commit (GPU actor) and for the repair (driver).

The failures come from the footer of the unit's part. The columns that the job reads came to the
actor with the unit; the repair reads them from the input again. `whole_rows` adds the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from gemma_batch.committing.whole_rows import with_whole_rows
from gemma_batch.errors import FailureCode
from gemma_batch.reading.source import given_up, unit_rows
from gemma_batch.rows import Row
from gemma_batch.storage.formats import STAGED
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.keep import keep_table
from gemma_batch.storage.parts import NO_ERRORS, build_errors, errors_schema, read_errors
from gemma_batch.units.raw_rows import raw_rows
from gemma_batch.units.unit import Shards, Unit, make_mask


def errors_file(
    unit: Unit,
    keep_schema: pa.Schema,
    failures: Sequence[dict[str, Any]],
    kept: pa.Table,
    raw: pa.Table,
    *,
    with_output: bool = False,
) -> bytes:
    """The errors file as the bytes of a Parquet file, with one row per failure.

    `failures` come from the footer of the part of `unit`; the file names the unit's generation.
    `kept` are the kept columns and `raw` the raw rows (see `units/raw_rows.py`) of the same rows.
    `with_output` adds the texts of refused answers.
    """
    written: dict[str, list[Any] | pa.ChunkedArray] = {
        **{name: kept[name] for name in kept.column_names},
        "id": [failure["id"] for failure in failures],
        "code": [failure["code"] for failure in failures],
        "message": [failure["message"] for failure in failures],
        "attempts": [failure["attempts"] for failure in failures],
        "route": [unit.route] * len(failures),
        **{name: raw[name] for name in raw.column_names},
        "output": [failure.get("output") for failure in failures],
    }
    return build_errors(written, keep_schema, unit.generation, with_output=with_output)


def errors_from_input(
    shards: Shards,
    unit: Unit,
    columns: Sequence[str],
    keep_schema: pa.Schema,
    failures: Sequence[dict[str, Any]],
    *,
    with_output: bool = False,
    whole_from: str | None = None,
) -> bytes:
    """The errors file of `errors_file`, when the unit's rows are no longer at hand.

    The rows are read from `shards` again, which are by number: `columns` names the columns to read.
    `whole_from` is the URL of the output when rows may have other columns. Raises `StorageError`
    when storage does not answer.
    """
    rows = {row.number: row for row in _read_again(shards, unit, columns, failures)}
    mine = [rows[failure["number"]] for failure in failures]
    kept = keep_table(mine, keep_schema)
    raw = raw_rows(mine, shards[unit.shard].url)
    if whole_from is not None:
        raw = with_whole_rows(raw, whole_from, unit)
    return errors_file(unit, keep_schema, failures, kept, raw, with_output=with_output)


def _read_again(
    shards: Shards, unit: Unit, columns: Sequence[str], failures: Sequence[dict[str, Any]]
) -> list[Row]:
    """The rows of the unit, without another look into files that could not be read.

    Such a file may take down the process that reads it.
    """
    if not failures:
        return []
    codes = {failure["number"]: failure["code"] for failure in failures}
    lost = {
        place.shard
        for place in unit.places
        if shards[place.shard].format != STAGED
        and {codes.get(place.first + n) for n in place.numbers} == {FailureCode.SHARD_UNREADABLE}
    }
    mask = make_mask(unit.first_row, unit.rows, codes)
    failed = replace(unit, mask=mask, expected=len(codes))
    if lost and unit.members is None:
        return given_up(shards, failed)
    return unit_rows(shards, failed, columns, lost)


def put_no_errors(store: Store, keep_schema: pa.Schema, *, with_output: bool = False) -> None:
    """Put an errors file without a row, create-only, so that `errors/` can be read at any time.

    Raises `StorageError`.
    """
    names = errors_schema(keep_schema, with_output=with_output).names
    data = build_errors({name: [] for name in names}, keep_schema, 0, with_output=with_output)
    store.create(NO_ERRORS, data)


def is_current(store: Store, path: str, unit: Unit, failures: Sequence[dict[str, Any]]) -> bool:
    """Whether the errors file at `path` holds the `failures` of the part of `unit`.

    The file names the generation that it was made from. Older versions did not write it; then the
    failures in the file decide. Raises `OutputError` when the file cannot be read.
    """
    with store.open(path) as source:
        generation, read = read_errors(source)
        if generation is not None:
            return generation == unit.generation
        names = ("id", "code", "message", "attempts")
        held = [tuple(row[name] for name in names) for row in read().to_pylist()]
    return held == [tuple(failure[name] for name in names) for failure in failures]
