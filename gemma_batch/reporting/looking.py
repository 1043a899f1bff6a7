"""Looking: some rows of an output with their prompts and answers, for `show` and the report page.

It needs no cluster: any machine that can read the output and the input can look (laptop, driver).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

import pyarrow as pa

from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.outlook import opened_run
from gemma_batch.planning.row_filter import RowFilter
from gemma_batch.reporting.picking import Part, Parts, pick_matching, pick_spread
from gemma_batch.reporting.row_prompts import RowPrompts
from gemma_batch.reporting.samples import ShownRow, shown_answers, shown_failures
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import ERROR_COLUMNS, OUTPUT_COLUMN, errors_schema, read_errors
from gemma_batch.texts import counted

AT_ONCE = 8  # units whose input is read at the same time
WHERE = "--where"


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Some rows of an output, in the order of the input.

    `looked_at` is the number of rows that the condition was asked of; None without a condition.
    `parts_read` of the `parts` were opened. `notes` are sentences for people.
    """

    name: str
    output: str
    rows: tuple[ShownRow, ...]
    errors: bool
    where: str | None
    looked_at: int | None
    parts_read: int
    parts: int
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """How many rows are shown, of how many that were looked at, and how much was read."""
        if not self.parts:
            return "nothing is committed yet"
        shown = counted(len(self.rows), "failure" if self.errors else "answer")
        read = f"{self.parts_read:,} of {counted(self.parts, 'part')} read"
        if self.looked_at is None:
            return f"{shown}, {read}"
        what = counted(self.looked_at, "failure" if self.errors else "answer")
        return f"{shown} where {self.where}, of {what} that were looked at ({read})"

    def plain(self) -> dict[str, Any]:
        """The samples as plain data, for JSON."""
        names = [name for name in self.__slots__ if name not in {"rows", "notes"}]
        data = {name: getattr(self, name) for name in names}
        return {**data, "notes": list(self.notes), "rows": [row.plain() for row in self.rows]}


def samples(
    output: str, rows: int = 10, *, where: str | None = None, errors: bool = False, seed: int = 0
) -> Samples:
    """Some rows of an output with their prompts and answers; with `errors`, rows that failed.

    The output may be of a run that is finished, goes on or was stopped. The rows are spread over
    the data set by chance; the same `seed` gives the same rows of the same parts. `where` is an SQL
    condition over the columns of the results, with `errors` over those of the errors.

    Raises `OutputError` when the output holds no run, `SpecError` when `where` cannot be evaluated.
    """
    store, manifest = opened_run(output)
    return look(store, manifest, rows, where=where, errors=errors, seed=seed)


def look(
    store: Store,
    manifest: Manifest,
    rows: int,
    *,
    where: str | None = None,
    errors: bool = False,
    seed: int = 0,
) -> Samples:
    """The same as `samples`, for an output whose manifest is known."""
    parts, random = Parts(store, manifest), Random(seed)
    prompts = RowPrompts(manifest)
    notes: list[str] = []
    if errors:
        keys, failed = parts.newest()
        weights = [float(failed.get(key, 1)) for key in keys]
    else:
        keys = parts.every
        weights = [float(parts.unit(key).expected) for key in keys]
    if where is None:
        picked = pick_spread(parts, keys, weights, _failed if errors else _answered, rows, random)
    else:
        asking = _Asking(where, parts, prompts)
        ask = asking.failures if errors else asking.answers
        picked = pick_matching(parts, keys, weights, ask, rows, random)
        notes += asking.notes

    def shown(one: tuple[Part, list[int]]) -> list[ShownRow]:
        part, places = one
        if errors:
            unit = parts.unit(part.key.base)
            return shown_failures(prompts, unit, [part.failures[place] for place in places])
        table = part.file.read().take(pa.array(places, pa.int64()))
        return shown_answers(prompts, part.unit, part.failures, table, places)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [row for mine in pool.map(shown, picked.places) for row in mine]
    return Samples(
        name=manifest.name,
        output=store.url,
        rows=tuple(found),
        errors=errors,
        where=where,
        looked_at=None if where is None else picked.looked_at,
        parts_read=picked.read,
        parts=len(parts.listed),
        notes=tuple(dict.fromkeys(notes)),
    )


def _answered(part: Part) -> int:
    return part.rows


def _failed(part: Part) -> int:
    return len(part.failures)


def page_rows(store: Store, manifest: Manifest, rows: int) -> list[ShownRow] | None:
    """The rows that report.html shows, `rows` of them; None when it is to show no contents."""
    return list(look(store, manifest, rows).rows) if rows else None


class _Asking:
    """Asks a condition of the rows of parts. The first part tells the columns."""

    def __init__(self, where: str, parts: Parts, prompts: RowPrompts) -> None:
        self._where, self._parts, self._prompts = where, parts, prompts
        self._filter: RowFilter | None = None
        self.notes: list[str] = []

    def _condition(self, schema: pa.Schema) -> RowFilter:
        # Two threads may make one at the same time; they are equal.
        if self._filter is None:
            self._filter = RowFilter(self._where, schema, WHERE)
        return self._filter

    def answers(self, part: Part) -> tuple[int, list[int]]:
        condition = self._condition(part.file.schema_arrow)
        # A part of an older version may lack a column.
        there = [name for name in condition.columns if name in part.file.schema_arrow.names]
        table = part.file.read(columns=there) if there else _empty_rows(part.rows)
        return part.rows, condition.places(_with_nulls(table, condition.columns))

    def failures(self, part: Part) -> tuple[int, list[int]]:
        if not part.failures:
            return 0, []
        names = part.file.schema_arrow.names
        keep = pa.schema(
            [part.file.schema_arrow.field(name) for name in names[: names.index("id")]]
        )
        condition = self._condition(errors_schema(keep, with_output=True))
        table = _errors_table(self._parts.store, part, condition.columns)
        if table is None:
            table = self._of_footer(part)
            if lacking := set(condition.columns) - set(table.column_names):
                self.notes.append(
                    f"{', '.join(sorted(lacking))} of some failures are not in errors/ yet and "
                    "count as null: the run writes them at its end"
                )
        return len(part.failures), condition.places(_with_nulls(table, condition.columns))

    def _of_footer(self, part: Part) -> pa.Table:
        """The columns of errors that the footer of a part tells."""
        unit = self._parts.unit(part.key.base)  # the failures may be of rows that a retry left out
        numbers = [failure["number"] for failure in part.failures]
        places = self._prompts.without(unit, numbers, "")
        kinds = ERROR_COLUMNS | OUTPUT_COLUMN
        told: dict[str, list[Any]] = {
            **{name: [f.get(name) for f in part.failures] for name in ("id", "code", "message")},
            "attempts": [f["attempts"] for f in part.failures],
            "route": [unit.route] * len(numbers),
            "shard": [places[number].shard for number in numbers],
            "row_number": [places[number].row_number for number in numbers],
            "output": [f.get("output") for f in part.failures],
        }
        return pa.table({name: pa.array(column, kinds[name]) for name, column in told.items()})


def _errors_table(store: Store, part: Part, columns: Sequence[str]) -> pa.Table | None:
    """The errors file of a part; None when it is missing or is not of the part's generation."""
    try:
        with store.open(part.key.errors_path) as source:
            generation, read = read_errors(source)
            if (generation or 0) != part.key.generation:
                return None
            table = read(columns=list(dict.fromkeys(["id", *columns])))
    except FileNotFoundError:
        return None
    ids = [failure["id"] for failure in part.failures]
    return table if table["id"].to_pylist() == ids else None


def _empty_rows(count: int) -> pa.Table:
    return pa.table({"_": pa.nulls(count)})


def _with_nulls(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table
