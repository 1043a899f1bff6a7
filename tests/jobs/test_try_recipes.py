"""The commands that the headers of recipes show work on the rows and the model beside them.

Each is planned; `make test-long` also runs it, with the echo engine in the model's place.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.cli.commands import main
from jobs.guidelines.join import join
from tests.integration.helpers import ROOT, cli, data_set

SAMPLES = ROOT / "jobs/samples"
Row = dict[str, Any]


def label(row: Row) -> None:
    assert row["answer"] == row["output"]
    assert row["answer"] in {"billing", "bug", "question", "other"}
    assert row["route"] in {"long", "rest"}


def record(row: Row) -> None:
    assert json.loads(row["output"]).keys() == {"supplier", "date", "total", "currency", "lines"}
    assert isinstance(row["date"], datetime.date | None)
    assert isinstance(row["total"], float | None)
    assert all(line.keys() == {"text", "amount"} for line in row["lines"])


def guided(row: Row) -> None:
    assert row["output"]
    assert row["style"] in {"brief", "formal", "friendly"}


def called(row: Row) -> None:
    assert row["tool_calls"]
    for call in row["tool_calls"]:
        assert call["name"] in {"track_order", "return_order", "call_back"}
        assert isinstance(json.loads(call["arguments"]), dict)
        assert call["valid"]


CALLS = "list<item: struct<name: string, arguments: string, valid: bool>>"
LINES = "list<item: struct<text: string, amount: double>>"
RECORD = {"supplier": "string", "date": "date32[day]", "total": "double", "currency": "string"}
CASES: dict[str, tuple[str, dict[str, str], Callable[[Row], None]]] = {
    "classify_with_routes": ("tickets", {"answer": "string"}, label),
    "extract": ("invoices", {**RECORD, "lines": LINES}, record),
    "call_functions": ("requests", {"tool_calls": CALLS}, called),
    "guided_answers": ("questions", {}, guided),
}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that has `jobs/`, and the questions joined to their guidelines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    join(SAMPLES / "questions.jsonl", tmp_path / ".quickstart/guided/questions.parquet")
    return tmp_path


def shown(recipe: str) -> list[str]:
    """The arguments of the command that the header of this recipe shows for this machine."""
    text = (ROOT / f"jobs/{recipe}.yaml").read_text(encoding="utf-8").replace("\n# ", " ")
    (command,) = re.findall(r"`gemma-batch (run [^`]+)`", text)
    return shlex.split(command)


def rows(sample: str) -> int:
    return len((SAMPLES / f"{sample}.jsonl").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("recipe", CASES)
def test_the_command_in_the_header_is_planned(
    recipe: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No row of the sample will fail; each route gets some; the answers have the right columns."""
    sample, columns, _ = CASES[recipe]
    with pytest.raises(SystemExit) as ended:
        main(["plan", *shown(recipe)[1:], "--set", "resources.device=cpu", "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    facts = json.loads(out)
    assert facts["rows"] == rows(sample)
    assert all(route["rows"] for route in facts["routes"])
    assert [route["sample"]["failures"] for route in facts["routes"]] == [{}] * len(facts["routes"])
    assert (facts["answer"] or {"columns": {}})["columns"] == columns


@pytest.mark.long
@pytest.mark.parametrize("recipe", CASES)
def test_the_command_in_the_header_runs(recipe: str, there: Path, cluster: str) -> None:
    """Every row of the sample gets an answer of the recipe's shape."""
    sample, _, right = CASES[recipe]
    arguments = shown(recipe)
    (output,) = (word.split("=")[1] for word in arguments if word.startswith("output.path="))
    done = cli(*arguments, "--set", "resources.engine=echo", RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    assert data_set(output, "errors") == []
    results = data_set(output, "results")
    assert len(results) == rows(sample)
    for row in results:
        right(row)
