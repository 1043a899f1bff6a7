"""Reuse: known answers in a part, and how a receipt counts them (GPU actor, driver, `status`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gemma_batch.rows import Completion, Outcome
from gemma_batch.storage.parts import Column, arrow_table
from gemma_batch.units.known import TOKENS, Known
from gemma_batch.units.payload import Prepared

REUSED, REUSED_TOKENS = "reused", "reused_tokens"


def with_known(
    columns: Mapping[str, Column],
    schema: pa.Schema,
    prepared: Prepared,
    known: Known,
    outcomes: Mapping[int, Outcome],
) -> dict[str, pa.ChunkedArray]:
    """The columns of new answers together with the known answers, in the order of the rows.

    Kept columns and ids of known answers are those of the rows as they were read now: the types of
    kept columns, and the numbers in ids, may not be those of the trial.
    """
    places = {number: place for place, number in enumerate(prepared.numbers)}
    mine = [places[number] for number in known.numbers]
    kept = prepared.keep.take(pa.array(mine, pa.int64()))
    old = arrow_table(
        {
            **{name: known.answers[name] for name in known.answers.column_names},
            **{name: kept[name] for name in kept.column_names},
            "id": [prepared.ids[place] for place in mine],
        },
        schema,
    )
    new = [n for n in prepared.numbers if isinstance(outcomes.get(n), Completion)]
    order = pc.sort_indices(pa.array([*new, *known.numbers], pa.int64()))
    every = pa.concat_tables([arrow_table(columns, schema), old]).take(order)
    return {name: every[name] for name in schema.names}


def reused_counts(known: Known | None) -> dict[str, Any]:
    """The part of a receipt that says how many of its counts are of known answers; {} for none."""
    if known is None:
        return {}
    tokens = {name: pc.sum(known.answers[name]).as_py() or 0 for name in TOKENS}
    return {REUSED: len(known.numbers), REUSED_TOKENS: tokens}


def worked(receipt: Mapping[str, Any], name: str) -> int:
    """A count of rows or tokens in a receipt, without known answers: what engines worked for.

    `name` is "rows", "answered" or one of `TOKENS`.
    """
    known = receipt.get(REUSED_TOKENS, {}).get(name) if name in TOKENS else receipt.get(REUSED)
    return int(receipt[name]) - int(known or 0)
