"""Answers of every shape from a real vLLM, read by the programs that people use (promise 8)."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import fastjsonschema
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gemma_batch.answering.host import Host
from gemma_batch.answering.shapes import shape_of
from gemma_batch.engines import grammars
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.rows import Completion, Failure, Request
from gemma_batch.spec import Answer
from gemma_batch.units.asked import Asked
from tests.engines.asked_vllm import config_for

from .helpers import assert_each_once, cli, write_spec

ROWS = 2000
ROOT = Path(__file__).resolve().parents[2]
CPU = {"device": "cpu", "max_model_len": 512, "cpu_kv_cache_gib": 1}
SUMS = """root ::= digit ((" + " | " - ") digit){0,3}
digit ::= [1-9] | "(" digit ")"
"""
LABELS = ("yes", "no", "it depends")
PATTERN = r"[A-Z]{2}-\d{1,3}(?: (?:red|green))?"
WORD = {"type": "string", "minLength": 1, "maxLength": 6}
FLAT = {
    "type": "object",
    "properties": {
        "name": WORD,
        "count": {"type": "integer", "minimum": 0, "maximum": 500},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "sure": {"type": "boolean"},
        "kind": {"enum": ["a", "b", "none of them"]},
    },
    "required": ["name", "count", "sure", "kind"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {
        "title": WORD,
        "day": {"type": "string", "format": "date"},
        "at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "clock": {"type": "string", "format": "time"},
        "lines": {
            "type": "array",
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "what": {"enum": ["x", "y"]},
                    "price": {"type": ["integer", "null"], "minimum": -5, "maximum": 99},
                    "more": {"anyOf": [{"type": "boolean"}, {"enum": ["?", "!"]}]},
                },
                "required": ["what", "price"],
            },
        },
    },
    "required": ["title", "day", "at", "lines"],
}
LINE = pa.struct([("what", pa.string()), ("price", pa.int64()), ("more", pa.string())])
TYPE = pa.struct(
    [
        ("title", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("clock", pa.time64("us")),
        ("lines", pa.list_(LINE)),
    ]
)


@pytest.fixture(params=["random", "trained"])
def either(request: pytest.FixtureRequest, tiny: str) -> str:
    """A model of random weights, and one that was trained for something else."""
    return tiny if request.param == "random" else str(ROOT / "jobs/models/language-small")


@pytest.mark.long
def test_two_thousand_answers_of_each_shape_from_one_engine(either: str) -> None:
    """Labels, a pattern and a grammar: every answer has the shape, and every row an outcome."""
    answers = [Answer(choice=LABELS), Answer(regex=PATTERN), Answer(grammar=SUMS)]
    shapes = [shape_of({}, Asked(answer=answer)) for answer in answers]
    tokenizer = Tokenizer.from_folder(either)
    config = config_for(
        either,
        max_model_len=256,
        max_num_seqs=128,
        max_num_batched_tokens=2048,
        dtype="float32",
        cpu_kv_cache_gib=1,
        structured=True,
        sampling={"temperature": 1.0, "max_tokens": 60},
    )
    requests = []
    for number in range(3 * ROWS):
        text = tokenizer.chat.render([{"role": "user", "content": f"row {number}"}])
        own = {**shapes[number % 3].asks(), "seed": number}
        requests.append(Request(number, TokenPrompt(tokenizer.encode(text)), own))
    host = Host(
        config,
        in_flight=256,
        check=lambda completion, request: shapes[request.number % 3].check(completion, request),
        retries=1,
    )
    try:
        outcomes = host.run(requests)
    finally:
        host.close()
    checks = [
        lambda text: text in LABELS,
        lambda text: re.fullmatch(PATTERN, text, re.ASCII),
        lambda text: grammars.follows(SUMS, text) and eval(text) is not None,  # sums are Python
    ]
    for turn, check in enumerate(checks):
        mine = [outcomes[number] for number in range(turn, 3 * ROWS, 3)]
        assert len(mine) == ROWS
        done = [one for one in mine if isinstance(one, Completion)]
        assert len(done) >= 0.95 * ROWS
        assert {one.code for one in mine if isinstance(one, Failure)} <= {"invalid_answer"}
        for one in done:
            (values,) = one.values
            assert values["answer"] == one.outputs[0]
            assert check(one.outputs[0]), one.outputs[0]
        assert len({one.outputs[0] for one in done}) >= len(LABELS)


def ran(
    folder: Path, tiny: str, schema: dict[str, Any], **answer: Any
) -> tuple[str, list[dict[str, Any]]]:
    """A run over 2,000 rows with prompts, and units of which every row fails; with its results."""
    rows = [{"id": f"r{n}", "doc": f"row {n}"} for n in range(ROWS)]
    lost = [{"id": f"l{n}", "doc": None} for n in range(200)]
    table = pa.Table.from_pylist([*rows, *lost])
    pq.write_table(table, folder / "in.parquet", row_group_size=200)
    (folder / "schema.json").write_text(json.dumps(schema))
    job = write_spec(
        folder / "job.yaml",
        input={"path": str(folder / "in.parquet"), "id": "id"},
        prompt={"user": "{{ doc }}"},
        model=tiny,
        answer={"schema": str(folder / "schema.json"), **answer},
        sampling={"temperature": 1, "seed": 5, "max_tokens": 200},
        output={"path": str(folder / "out")},
        resources={**CPU, "max_num_seqs": 128},
        policy={"unit_rows": 200, "max_failed": 0.9},
    )
    done = cli("run", str(job), "--json", timeout=900)
    assert done.returncode == 0, done.stderr
    every = [row["id"] for row in (*rows, *lost)]
    results, errors = assert_each_once(str(folder / "out"), every)
    assert {row["code"] for row in errors} <= {"null_value", "invalid_answer"}
    assert sum(row["code"] == "null_value" for row in errors) == len(lost)
    refused = [row for row in errors if row["code"] == "invalid_answer"]
    assert len(refused) < 0.1 * ROWS, refused[0]["message"]
    assert all(row["output"] for row in refused)
    parts = list((folder / "out" / "results").glob("*.parquet"))
    assert len({pq.read_schema(part).to_string() for part in parts}) == 1
    assert any(pq.read_metadata(part).num_rows == 0 for part in parts), "a unit without an answer"
    return f"{folder}/out/results/*.parquet", results


@pytest.mark.long
def test_a_flat_schema_gives_columns(either: str, tmp_path: Path) -> None:
    """One for each property; every text fits the schema, by a validator that is not ours."""
    path, results = ran(tmp_path, either, FLAT, flatten=True)
    valid = fastjsonschema.compile(FLAT)
    for row in results:
        found = valid(json.loads(row["output"], strict=False))
        assert {name: row[name] for name in found} == found
        assert all(row[name] is None for name in FLAT["properties"].keys() - found.keys())  # type: ignore[attr-defined]
    table = ds.dataset(str(tmp_path / "out" / "results")).to_table()
    kinds = [table.schema.field(name).type for name in sorted(FLAT["properties"])]  # type: ignore[call-overload]
    assert kinds == [pa.int64(), pa.string(), pa.string(), pa.float64(), pa.bool_()]
    counted = duckdb.sql(f"SELECT kind, count(*), sum(count) FROM '{path}' GROUP BY 1").fetchall()
    assert {kind for kind, _, _ in counted} == {"a", "b", "none of them"}
    assert sum(rows for _, rows, _ in counted) == len(results)


@pytest.mark.long
def test_a_nested_schema_gives_structs_that_everybody_reads(either: str, tmp_path: Path) -> None:
    """Arrays, enums, nulls and dates, in pyarrow, DuckDB, pandas and polars alike."""
    import polars

    path, results = ran(tmp_path, either, NESTED)
    valid = fastjsonschema.compile(NESTED)
    folder = str(tmp_path / "out" / "results")
    table = ds.dataset(folder).to_table()
    assert table.schema.field("answer").type == TYPE
    for row in results:
        found = valid(json.loads(row["output"], strict=False))
        answer = row["answer"]
        assert (answer["title"], answer["day"]) == (
            found["title"],
            dt.date.fromisoformat(found["day"]),
        )
        at = None if found["at"] is None else dt.datetime.fromisoformat(found["at"])
        assert answer["at"] == at
        assert [(line["what"], line["price"]) for line in answer["lines"]] == [
            (line["what"], line["price"]) for line in found["lines"]
        ]
        for line, text in zip(answer["lines"], found["lines"], strict=True):
            assert line["more"] is None or json.loads(line["more"]) == text["more"]
    days = sorted(row["answer"]["day"] for row in results)
    lines = sum(len(row["answer"]["lines"]) for row in results)
    assert lines > 0
    told = "min(answer.day), max(answer.day), sum(len(answer.lines)), count(answer.at)"
    moments = sum(row["answer"]["at"] is not None for row in results)
    assert 0 < moments < len(results)
    assert duckdb.sql(f"SELECT {told} FROM '{path}'").fetchall() == [
        (days[0], days[-1], lines, moments)
    ]
    frame = pd.read_parquet(folder)
    assert sum(len(answer["lines"]) for answer in frame["answer"]) == lines
    assert sorted(answer["day"] for answer in frame["answer"]) == days
    typed = polars.read_parquet(path)["answer"].struct
    assert typed.field("lines").list.len().sum() == lines
    assert sorted(typed.field("day").to_list()) == days
    assert typed.field("at").drop_nulls().len() == moments
