"""Guidelines are joined to the rows that choose them: each row once, and none without."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from gemma_batch.spec import JobSpec
from jobs.guidelines import join as module
from jobs.guidelines.join import HERE, TABLES, join

QUESTION = {"question_id": "q", "language": "de", "audience": "customers", "style": "brief"}
RECIPE = HERE.parent / "guided_answers.yaml"


def questions(path: Path, *changes: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps({**QUESTION, **change}) + "\n" for change in changes))
    return path


def test_each_question_gets_the_lines_that_its_columns_choose(tmp_path: Path) -> None:
    """Compared with the tables as Python's own csv reads them; the recipe has what it needs."""
    sample = HERE.parent / "samples/questions.jsonl"
    asked = {row["question_id"]: row for row in map(json.loads, sample.read_text().splitlines())}
    assert join(sample, tmp_path / "new/out.parquet") == len(asked)
    rows = pq.read_table(tmp_path / "new/out.parquet").to_pylist()
    assert sorted(row["question_id"] for row in rows) == sorted(asked)
    lines = {name: csv_of(HERE / file) for name, file in TABLES.items()}
    for row in rows:
        assert asked[row["question_id"]].items() <= row.items()
        for name in TABLES:
            assert row[f"{name}_guideline"] == lines[name][row[name]]["guideline"]
    assert [row["language"] for row in rows] == sorted(row["language"] for row in rows)
    prompt = JobSpec.load(RECIPE).prompt
    named = re.findall(r"{{ (\w+) }}", f"{prompt.system} {prompt.user}")
    assert set(named) <= rows[0].keys()


def csv_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {next(iter(row.values())): row for row in rows}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"language": "tlh"}, "languages.csv has no line for language 'tlh'"),
        ({"audience": "Customers"}, "audiences.csv has no line for audience 'Customers'"),
        ({"style": None}, "styles.csv has no line for style None"),
    ],
)
def test_a_question_without_a_guideline_is_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    """Before anything is written: the row would be lost, or answered without its guideline."""
    path = questions(tmp_path / "in.jsonl", {}, change)
    with pytest.raises(ValueError, match=re.escape(said)):
        join(path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_table_with_two_lines_for_a_value_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question would come out twice. A quote in a path is a path."""
    here = tmp_path / "it's"
    here.mkdir()
    for file in TABLES.values():
        (here / file).write_bytes((HERE / file).read_bytes())
    monkeypatch.setattr(module, "HERE", here)
    path = questions(here / "in.jsonl", {})
    assert join(path, here / "out.parquet") == 1
    with (here / "styles.csv").open("a", encoding="utf-8") as styles:
        styles.write('brief,"At most one sentence."\n')
    with pytest.raises(ValueError, match="two lines for style 'brief'"):
        join(path, here / "again.parquet")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By DuckDB's own error, which the command prints."""
    with pytest.raises(duckdb.Error, match=r"none\.jsonl"):
        join(tmp_path / "none.jsonl", tmp_path / "out.parquet")
