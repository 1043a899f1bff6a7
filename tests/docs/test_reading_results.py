"""Reading results: each query and program of docs/output.md is run, on an output with failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.cli.commands import main
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.errors_file import put_no_errors
from gemma_batch.committing.manifest import create_manifest
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import make_plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Outcome
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from tests.docs.pages import FENCE, PAGES, spans

SECTION = PAGES["docs/output.md"].partition("## Reading results\n")[2].partition("\n## ")[0]
SQL = [text for kind, text in FENCE.findall(SECTION) if kind == "sql"]
(PYTHON,) = [text for kind, text in FENCE.findall(SECTION) if kind == "python"]
TICKETS, FILES = 30, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """`in` and two outputs of it, one with an id column: every tenth ticket has no subject."""
    folder = tmp_path_factory.mktemp("tickets")
    (folder / "in").mkdir()
    for n in range(FILES):
        ids = range(n * 10, n * 10 + 10)
        rows = [{"ticket_id": i, "subject": f"s{i}" if i % 10 else None, "x": i} for i in ids]
        pq.write_table(pa.Table.from_pylist(rows), folder / "in" / f"{n}.parquet")
    for name, key in (("out", "ticket_id"), ("no-id", None)):
        spec = {
            "input": {"path": f"{folder}/in/*.parquet", "id": key},
            "prompt": {"user": "{{ subject }}"},
            "model": model,
            "sampling": {"max_tokens": 4},
            "output": {"path": str(folder / name)},
            "resources": {"engine": "echo", "max_model_len": 256},
        }
        plan = make_plan(JobSpec.from_dict(spec)).placed(Hardware(gpu=None))
        store, units = open_store(str(folder / name)), plan.units()
        manifest = create_manifest(
            store,
            name="tickets",
            fingerprint=plan.fingerprint(),
            shards=plan.survey.shards,
            units=units,
            spec=plan.spec.to_dict(),
            facts={},
        )
        job = replace(plan.job(plan.routes[0]), run=manifest.run)
        put_no_errors(store, job.keep_schema)
        for unit in units:
            prepared = Preparer(job).prepare(plan.survey.shards, unit)
            answers: dict[int, Outcome] = {
                one.number: Completion([f"about {one.number}"], ["stop"], 1, 1)
                for one in prepared.requests
            }
            commit_unit(store, job, prepared, {**answers, **prepared.failures}, {})
    return folder


def placed(text: str, folder: Path, output: str = "out") -> str:
    here = text.replace("s3://tickets-out/2026", f"{folder}/{output}")
    return here.replace("s3://tickets/2026", f"{folder}/in")


def asked(query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = duckdb.sql(query).arrow().read_all().to_pylist()
    return found


def statements(text: str) -> Iterator[str]:
    return (one for one in text.split(";\n") if one.strip())


def test_each_query_gives_what_it_is_for(folder: Path) -> None:
    """By DuckDB; the query for any SQL gives what the one with paths gives."""
    sample, joined, neutral, without, failed, back = SQL
    ten = asked(placed(sample, folder))
    assert len(ten) == 10
    assert {row["output"][:6] for row in ten} == {"about "}

    rows = {row["ticket_id"]: row for row in asked(placed(joined, folder))}
    assert sorted(rows) == list(range(TICKETS))
    for i, row in rows.items():
        assert (row["output"], row["code"]) == (
            (f"about {i}", None) if i % 10 else (None, "null_value")
        )
    for view, path in (("tickets", "in"), ("results", "out/results"), ("errors", "out/errors")):
        duckdb.sql(f"CREATE OR REPLACE VIEW {view} AS FROM '{folder}/{path}/*.parquet'")
    assert {row["ticket_id"]: row for row in asked(neutral)} == rows

    pairs = {row["subject"]: row["output"] for row in asked(placed(without, folder, "no-id"))}
    assert pairs == {f"s{i}": f"about {i}" for i in range(TICKETS) if i % 10}

    counts, whole = statements(placed(failed, folder))
    (one,) = asked(counts)
    assert (one["code"], one["failed"]) == ("null_value", FILES)
    assert "subject" in one["example"]
    assert [(row["id"], row["subject"]) for row in asked(whole)] == [
        (f"{n * 10}", None) for n in range(FILES)
    ]
    for output in ("out", "no-id"):
        found = asked(placed(back, folder, output))
        assert sorted((row["code"], row["x"]) for row in found) == [
            ("null_value", n * 10) for n in range(FILES)
        ]


def test_the_program_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With pyarrow alone."""
    found: dict[str, Any] = {}
    exec(compile(placed(PYTHON, folder), "docs/output.md", "exec"), found)
    said = capsys.readouterr().out
    assert "about 1" in said
    assert str([{"code": "null_value", "count_all": FILES}]) in said
    answers = {row["ticket_id"]: row["output"] for row in found["answers"].to_pylist()}
    assert answers == {i: f"about {i}" if i % 10 else None for i in range(TICKETS)}


def test_the_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gemma-batch show`, between backticks."""
    lines = [span for span in spans(SECTION) if span.startswith("gemma-batch ")]
    assert len(lines) == 2
    for line in lines:
        with pytest.raises(SystemExit) as ended:
            main(placed(line, folder).split()[1:])
        assert not ended.value.code
    said = capsys.readouterr().err
    assert "about 1" in said
    assert "null_value" in said
