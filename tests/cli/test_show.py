"""`gemma-batch show`: rows to look at, for people, for programs, and as a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_batch.reporting.looking import samples
from tests.cli.test_commands import run
from tests.reporting.outputs import Output, failing, job_spec, says, start, tickets, write_rows


@pytest.fixture
def output(tmp_path: Path, model: str) -> Output:
    write_rows(tmp_path, tickets(30))
    made = start(job_spec(tmp_path, model))
    for unit in made.units:
        made.commit(
            unit, lambda r: failing("deadline") if r.number == 4 else says(f"answer {r.number}")
        )
    return made


def test_people_read_prompts_and_answers(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, as all texts for people; the last line says how much was read."""
    assert run("show", output.url, "-n", "2") == 0
    out, err = capsys.readouterr()
    assert out == ""
    for row in samples(output.url, 2).rows:
        assert f"{row.id}   a.jsonl, row {row.row_number}   customer=" in err
        assert f"Say text {row.row_number}<end_of_turn>" in err
        assert f"answer {row.row_number}\n" in err
    assert "2 answers, 2 of 3 parts read" in err


def test_programs_get_whole_rows(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document on stdout, the same data as from Python."""
    assert run("show", output.url, "--where", "output = 'answer 17'", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    found = samples(output.url, where="output = 'answer 17'").plain()
    assert data == json.loads(json.dumps(found))
    assert [row["id"] for row in data["rows"]] == ["t17"]
    assert run("show", output.url, "--errors", "--json") == 0
    (failed,) = json.loads(capsys.readouterr().out)["rows"]
    assert (failed["id"], failed["answers"][0]["code"]) == ("t4", "deadline")


def test_the_spec_means_its_output(
    output: Output, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person has the spec at hand, or the output."""
    spec = tmp_path / "job.yaml"
    spec.write_text(json.dumps(job_spec(tmp_path, model)))
    assert run("show", str(spec), "-n", "3", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["output"] == output.url
    assert len(data["rows"]) == 3


def test_a_page_can_be_written(
    output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Instead of the texts in the terminal."""
    page = tmp_path / "rows.html"
    assert run("show", output.url, "-n", "5", "--seed", "3", "--html", str(page)) == 0
    assert "wrote" in capsys.readouterr().err
    text = page.read_text()
    assert text.count('<section class="row">') == 5
    for row in samples(output.url, 5, seed=3).rows:
        assert f"Say text {row.row_number}" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "outputs = 'x'"], "columns: customer, id, output"),
        (["--errors", "--where", "codes = 'x'"], "columns: customer, id, code, message"),
        (["-n", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    output: Output, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2."""
    assert run("show", output.url, *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by `status`."""
    assert run("show", str(tmp_path / "nothing")) == 2
    assert "holds no run" in capsys.readouterr().err
