"""What the README shows is run, as far as it runs without Ray: init, models, plan, the query."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gemma_batch.answering.answers import AnswerShape
from gemma_batch.answering.shapes import shape_of
from gemma_batch.cli.commands import main
from gemma_batch.spec import Answer, JobSpec
from gemma_batch.storage.parts import results_schema
from gemma_batch.units.asked import Asked
from tests.docs.pages import blocks, readme_spec, shell_lines


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A folder in the place of the README's bucket."""
    rows = [
        {"ticket_id": i, "customer": f"c{i}", "subject": f"s{i}", "body": "b " * (7000 * (i % 2))}
        for i in range(1, 101)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "one.parquet")
    return tmp_path


def test_the_job_shown_is_planned(tickets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With local paths and the README's own GPU: both routes get rows and a placement."""
    job = {
        **readme_spec(),
        "input": {"path": f"{tickets}/*.parquet", "id": "ticket_id"},
        "output": {"path": str(tickets / "out"), "keep": ["ticket_id", "customer"]},
    }
    spec = tickets / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    (line,) = (one for one in shell_lines("gemma-batch") if " plan " in one)
    options = line.split("#")[0].split()[3:]
    assert run("plan", str(spec), *options, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"] == 100
    assert {route["name"]: route["rows"] for route in facts["routes"]} == {"long": 50, "rest": 50}
    assert all(route["placement"]["tensor_parallel"] for route in facts["routes"])
    assert "You classify support tickets." in facts["prompt"]["text"]


def test_init_writes_a_spec_from_the_columns(tickets: Path) -> None:
    """`gemma-batch init`, on a file of the README's columns."""
    to = tickets / "new.yaml"
    assert run("init", f"{tickets}/*.parquet", "--to", str(to)) == 0
    assert JobSpec.load(to).input.id == "ticket_id"


def test_models_lists_what_the_readme_names(capsys: pytest.CaptureFixture[str]) -> None:
    """`gemma-batch models` knows each model of the README's job."""
    assert run("models", "--json") == 0
    known = {row["id"] for row in json.loads(capsys.readouterr().out)}
    assert {route.model for route in JobSpec.from_dict(readme_spec()).routes} <= known


def test_the_query_shown_runs_on_results(tmp_path: Path) -> None:
    """By DuckDB, on a file with the columns that results have."""
    (query,) = blocks("sql", "README.md")
    (tmp_path / "results").mkdir()
    empty = results_schema(
        pa.schema([("ticket_id", pa.int64())]), AnswerShape().fields()
    ).empty_table()
    pq.write_table(empty, tmp_path / "results" / "part.parquet")
    here = query.replace("s3://tickets-out/2026", str(tmp_path))
    assert here != query
    assert duckdb.sql(here).fetchall() == []


def test_the_query_for_calibration_runs_on_results(tmp_path: Path) -> None:
    """By DuckDB, on what a job with `choice` and `confidence` commits."""
    (query,) = [one for one in blocks("sql", "docs/answers.md") if "confidence" in one]
    asked = Asked(answer=Answer(choice=("a", "b"), confidence=True))
    shape = shape_of({"max_tokens": 4, "logprobs": 0}, asked)
    schema = results_schema(pa.schema([("gold", pa.string())]), shape.fields(), shape.details())
    sure = [("a", "a", 1.0), ("a", "a", 0.95), ("b", "a", 0.92), ("b", "b", 0.55)]
    rows = [
        {"gold": gold, "answer": label, "confidence": {"label": chance}}
        for label, gold, chance in sure
    ]
    (tmp_path / "results").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "results" / "part.parquet")
    here = query.replace("s3://tickets-out/2026", str(tmp_path))
    assert duckdb.sql(here).fetchall() == [(0.5, 1, 0.55, 1.0), (0.9, 3, 0.957, 0.667)]
