"""The rows of a try: every sampled row with its prompt and its answer or failure (driver)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gemma_batch.committing.manifest import Manifest
from gemma_batch.reporting.row_prompts import RowPrompts
from gemma_batch.reporting.samples import ShownRow, shown_answers, shown_failures
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.keep import as_json
from gemma_batch.storage.parts import open_part
from gemma_batch.units.unit import Unit

AT_ONCE = 8  # units that are read at the same time


def tried_rows(store: Store, manifest: Manifest, units: Sequence[Unit]) -> list[ShownRow]:
    """The rows of the units, which are committed, in the order of the input.

    Raises `OutputError`, `StorageError`.
    """
    prompts = RowPrompts(manifest)

    def shown(unit: Unit) -> list[ShownRow]:
        file, _, failures = open_part(store.open(unit.path))
        table = file.read()
        rows = shown_answers(prompts, unit, failures, table, range(table.num_rows))
        rows += shown_failures(prompts, unit, failures) if failures else []
        return sorted(rows, key=lambda row: row.row_number)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [row for rows in pool.map(shown, units) for row in rows]


def code_of(row: ShownRow) -> str | None:
    """The failure code of a row of a try; None for a row with an answer."""
    return row.answers[0].code


def said(row: ShownRow) -> str:
    """The answer of a row as it is compared: the typed answer or the calls, else the text."""
    answer = row.answers[0]
    for value in (answer.answer, answer.tool_calls):
        if value is not None:
            return as_json(value)
    return str(answer.output or "").strip()


def is_typed(row: ShownRow) -> bool:
    """Whether `said` compares a typed answer or calls."""
    return row.answers[0].answer is not None or row.answers[0].tool_calls is not None


def of_route(rows: Sequence[ShownRow], route: str) -> list[ShownRow]:
    """The rows of a try that are on a route."""
    return [row for row in rows if row.answers[0].route == route]
