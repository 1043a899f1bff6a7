"""Parts with typed answers, as the programs that people use read them (promises 4 and 8)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.commit import commit_unit
from gemma_batch.engines.dry_answers import dry_answer
from gemma_batch.rows import Completion, Failure
from gemma_batch.spec import Answer
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.asked import Asked
from gemma_batch.units.payload import Prepared
from tests.answering.test_feed import good
from tests.committing.test_commit import job
from tests.committing.test_commit import prepared as prepared
from tests.committing.test_commit import store as store

LINE = {
    "type": "object",
    "properties": {"what": {"enum": ["x", "y"]}, "price": {"type": ["integer", "null"]}},
    "required": ["what", "price"],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "clock": {"type": "string", "format": "time"},
        "lines": {"type": "array", "items": LINE, "minItems": 1},
        "share": {"type": "number"},
        "any": {},
    },
    "required": ["title", "day", "at", "lines"],
}


def committed(
    store: Store, prepared: Prepared, samples: int, *, flatten: bool
) -> tuple[str, list[list[dict[str, Any]]]]:
    """Two units with dry answers and one of which every row failed; with the answers as JSON."""
    asked = Asked(answer=Answer(schema=SCHEMA, flatten=flatten))
    task = replace(job(n=samples), asked=asked)
    shape = shape_of(task.sampling, asked)
    structure = shape.asks()["structured_outputs"]
    found = []
    for turn in range(3):
        unit = replace(prepared.unit, first_row=turn)
        outcomes: dict[int, Any] = {}
        for number in prepared.numbers:
            texts = [dry_answer(structure, [turn, number, n]) for n in range(samples)]
            done = Completion(texts, ["stop"] * samples, 5, 1)
            assert shape.check(done, good(number)) is None
            outcomes[number] = done if turn < 2 else Failure("invalid_answer", "m", output="{")
            if turn < 2:
                found.append([json.loads(text) for text in texts])
        commit_unit(store, task, replace(prepared, unit=unit), outcomes, {})
    return f"{store.url}/results", found


def test_a_struct_is_read_alike_by_everybody(store: Store, prepared: Prepared) -> None:
    """Lists, enums, nulls and dates, in pyarrow, DuckDB, pandas and polars; also beside the part of
    a unit without an answer, which has the same schema."""
    polars = pytest.importorskip("polars")
    folder, found = committed(store, prepared, 1, flatten=False)
    parts = sorted(store.list("results"))
    schemas = [pq.read_schema(pa.BufferReader(store.read(part))) for part in parts]
    assert len(schemas) == 3
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    answers = [one for (one,) in found]
    lines = [len(one["lines"]) for one in answers]
    prices = [line["price"] for one in answers for line in one["lines"]]
    days = [one["day"] for one in answers]
    moments = sum(one["at"] is not None for one in answers)
    table = ds.dataset(folder).to_table()
    assert [str(one["day"]) for one in table["answer"].to_pylist()] == days
    assert [len(one["lines"]) for one in table["answer"].to_pylist()] == lines
    told = "list(answer.day::VARCHAR), list(len(answer.lines)), count(answer.at)"
    theirs = duckdb.sql(f"SELECT {told} FROM (FROM '{folder}/*.parquet' ORDER BY filename, n)")
    assert theirs.fetchall() == [(days, lines, moments)]
    flat = duckdb.sql(
        f"SELECT l.price FROM (SELECT unnest(answer.lines) l FROM '{folder}/*.parquet')"
    )
    assert sorted(map(str, (price for (price,) in flat.fetchall()))) == sorted(map(str, prices))
    frame = pd.read_parquet(folder)
    assert [len(one["lines"]) for one in frame["answer"]] == lines
    assert [str(one["day"]) for one in frame["answer"]] == days
    typed = polars.read_parquet(f"{folder}/*.parquet")["answer"].struct
    assert typed.field("lines").list.len().to_list() == lines
    assert [str(day) for day in typed.field("day")] == days
    assert typed.field("at").drop_nulls().len() == moments


@pytest.mark.parametrize("samples", [1, 2])
def test_flat_columns_are_those_of_the_schema(
    store: Store, prepared: Prepared, samples: int
) -> None:
    """One column per property, with lists where a row has several answers."""
    folder, found = committed(store, prepared, samples, flatten=True)
    table = ds.dataset(folder).to_table()
    names = list(SCHEMA["properties"])  # type: ignore[call-overload]
    start = table.column_names.index("output") + 1
    assert table.column_names[start : start + len(names)] == names
    kind = pa.list_(pa.date32()) if samples > 1 else pa.date32()
    assert table.schema.field("day").type == kind
    titles = [[one["title"] for one in row] for row in found]
    assert table["title"].to_pylist() == (titles if samples > 1 else [one for (one,) in titles])
