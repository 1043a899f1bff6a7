"""The quickstart tells how many answers are right, and ends with an error where rows are missing.

`.ci/run` runs all of it, as it is; `tests/docker` runs it against object storage.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.spec import JobSpec
from jobs.quickstart import EXPECTED, SPEC, changes, messages, score, show
from jobs.train_small.labels import LANGUAGES, PROMPT
from tests.integration.helpers import assert_each_once, environment

Row = dict[str, Any]
TEXT = "Bitte melden Sie sich an, um Ihre Bestellungen, Adressen und Gutscheine zu sehen."


def asked(count: int) -> list[Row]:
    return [{"id": f"m{n}", "text": TEXT, "language": "de"} for n in range(count)]


def answered(rows: list[Row], answer: str = "de") -> list[Row]:
    return [{**row, "answer": answer} for row in rows]


def test_the_job_asks_what_the_model_was_trained_for() -> None:
    """The prompt and the labels of the training; every message has one of these labels."""
    job = JobSpec.load(SPEC)
    assert job.prompt.user == PROMPT
    assert job.answer is not None
    assert job.answer.choice == LANGUAGES
    assert {row["language"] for row in messages()} == set(LANGUAGES)


def test_a_failed_row_counts_as_wrong() -> None:
    """6 right, 2 wrong, 2 failed: 60%; three right rows and the wrong ones are shown."""
    rows = asked(10)
    results = [*answered(rows[:6]), *answered(rows[6:8], "nl")]
    lines, share = score(rows, results, rows[8:])
    assert share == 0.6
    assert lines[-1] == "accuracy: 60.0% (6 of 10 are right; 2 failed)"
    shown = [line.split(maxsplit=2) for line in lines[1:-2]]
    text = f"{TEXT[:69]}…"
    assert shown == [["de", "de", text]] * 3 + [["de", "nl", text]] * 2


@pytest.mark.parametrize(
    ("results", "errors", "said"),
    [
        (asked(9), [], "9 rows came out; missing are 1: m9"),
        (asked(8), [], "missing are 2: m8, m9"),
        ([], [], "missing are 10: m0, m1, m2, m3, m4"),
        (asked(9), asked(9)[8:], "10 rows came out; missing are 1: m9"),
        (asked(10), asked(1), "11 rows came out; missing are 0"),
    ],
)
def test_a_row_that_is_missing_or_twice_is_an_error(
    results: list[Row], errors: list[Row], said: str
) -> None:
    """Rows are told apart by their ids, not only counted."""
    with pytest.raises(ValueError, match=re.escape(said)):
        score(asked(10), answered(results), errors)


@pytest.mark.parametrize(
    ("right", "expected", "code"),
    [(10, EXPECTED, 0), (9, EXPECTED, 0), (8, EXPECTED, 1), (0, 0, 0)],
)
def test_the_exit_code_tells_of_a_model_that_answers_noise(
    right: int, expected: float, code: int, tmp_path: Path
) -> None:
    """From files as a run writes them; without a folder `errors` where no row failed."""
    rows = asked(10)
    (tmp_path / "results").mkdir()
    for name, part in (("a", answered(rows[:right])), ("b", answered(rows[right:], "nl"))):
        if part:
            pq.write_table(pa.Table.from_pylist(part), tmp_path / f"results/{name}.parquet")
    assert show(rows, str(tmp_path), expected=expected) == code


def test_an_output_without_rows_is_an_error(tmp_path: Path) -> None:
    """Whatever is expected."""
    assert show(asked(1), str(tmp_path), expected=0) == 1


@pytest.mark.parametrize(("rows", "there"), [(None, 3000), (5, 5)])
def test_elsewhere_the_spec_gets_the_paths_that_are_right_there(
    rows: int | None, there: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the image, the working folder is not the repository."""
    monkeypatch.chdir(tmp_path)
    changed = changes(messages()[:rows], argparse.Namespace(rows=rows, storage=None))
    assert (tmp_path / changed["model"] / "config.json").is_file()
    folder = tmp_path / changed["input.path"].removesuffix("/*.parquet")
    assert sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")) == there


@pytest.mark.long
def test_the_answers_are_right(tmp_path: Path) -> None:
    """The whole of it, from another folder: at least 90% of 3,000 messages, each answered once."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.quickstart"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (share,) = re.findall(r"^accuracy: ([\d.]+)%", done.stderr, re.MULTILINE)
    assert 90 <= float(share) <= 100
    assert_each_once(str(tmp_path / ".quickstart/out"), [row["id"] for row in messages()])
