"""The command line as a person uses it: plan, models and init, offline and without Ray."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gemma_batch.cli.commands import main
from gemma_batch.cli.shown import libraries_quiet, library_log
from gemma_batch.spec import JobSpec


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = [{"ticket_id": i, "subject": f"s{i}", "body": "b" * (i + 1)} for i in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    spec = {
        "name": "tickets",
        "input": {"path": str(tmp_path / "in.parquet"), "id": "ticket_id"},
        "prompt": {"system": "Be brief.", "user": "{{ subject }}: {{ body }}"},
        "model": "google/gemma-3-27b-it",
        "output": {"path": str(tmp_path / "out")},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.mark.parametrize(("gpu", "tensor_parallel"), [("H100-80", 2), ("H200-141", 1)])
def test_plan_places_a_27b_offline(
    job: Path, gpu: str, tensor_parallel: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Model, placement, units and the first prompt, from the catalog alone; nothing is written."""
    assert run("plan", str(job), "--gpu", gpu, "--json") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    (route,) = facts["routes"]
    assert route["placement"]["tensor_parallel"] == tensor_parallel
    assert route["placement"]["dtype"] == "bfloat16"
    assert facts["rows"] == 300
    assert facts["prompt"]["text"].startswith(
        "<bos><start_of_turn>user\nBe brief.\n\ns0: b<end_of_turn>"
    )
    assert err == ""
    assert not (job.parent / "out").exists()

    assert run("plan", str(job), "--gpu", gpu) == 0
    out, err = capsys.readouterr()
    assert out == "", "people's output goes to stderr"
    assert f"tensor parallel {tensor_parallel}" in err
    assert "<start_of_turn>user" in err


def test_plan_refuses_what_cannot_fit_and_says_what_would(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One L4 can't hold a 27B: the smallest GPU that can is named."""
    args = ["plan", str(job), "--gpu", "L4", "--gpus", "1"]
    assert run(*args, "--set", "resources.tensor_parallel=1") == 2
    assert "smallest" in capsys.readouterr().err
    assert run("plan", str(job), "--gpu", "H10") == 2
    assert "H100-80" in capsys.readouterr().err


def test_models_lists_the_family(capsys: pytest.CaptureFixture[str]) -> None:
    """All seventeen, with size, context and licence."""
    assert run("models", "--json") == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 17
    assert rows["google/gemma-3-27b-it"]["gated"] is True
    assert rows["google/gemma-4-31B-it"]["licence"] == "apache-2.0"
    assert run("models") == 0
    assert "google/gemma-3-270m-it" in capsys.readouterr().err


def test_init_writes_a_spec_that_plans(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a look at the columns: a text column in the prompt, an id column as id."""
    to = job.parent / "new.yaml"
    assert run("init", str(job.parent / "in.parquet"), "--to", str(to)) == 0
    spec = JobSpec.load(to)
    assert spec.input.id == "ticket_id"
    assert "{{ body }}" in (spec.prompt.user or "")
    assert spec.output.keep == (), "the id is in the results already"
    assert "such as [subject]" in to.read_text()
    assert spec.output.path == str(job.parent / "in-out")
    assert run("plan", str(to), "--gpu", "H100-80") == 0
    assert run("init", str(job.parent / "in.parquet"), "--to", str(to)) == 2
    assert "--force" in capsys.readouterr().err


def test_a_set_override_reaches_the_plan(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--set a.b=c, as often as needed."""
    sets = ["--set", "model=google/gemma-3-4b-it", "--set", "resources.max_model_len=2048"]
    assert run("plan", str(job), "--gpu", "L4", *sets, "--json") == 0
    (route,) = json.loads(capsys.readouterr().out)["routes"]
    assert (route["model"], route["max_model_len"]) == ("google/gemma-3-4b-it", 2048)


@pytest.mark.filterwarnings("default")
def test_warnings_of_libraries_go_to_a_file_and_ours_to_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is made for the first of them, and the command names it when it fails."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(library_log, "path", "")
    before = list(logging.getLogger().handlers)
    with libraries_quiet():
        assert list(tmp_path.iterdir()) == []
        pool = "Connection pool is full, discarding connection: %s"
        logging.getLogger("urllib3.connectionpool").warning(pool, "127.0.0.1")
        warnings.warn("this will change", FutureWarning, stacklevel=1)
        logging.getLogger("gemma_batch.storage").warning("the store does not answer")
    assert logging.getLogger().handlers == before
    assert capsys.readouterr().err == "the store does not answer\n"
    (log,) = tmp_path.iterdir()
    text = log.read_text()
    assert "Connection pool is full, discarding connection: 127.0.0.1" in text
    assert "FutureWarning: this will change" in text
    assert run("status", str(tmp_path / "none")) == 2
    assert f"are in {log}" in capsys.readouterr().err
