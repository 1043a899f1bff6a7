"""A try: a sample is asked for real, once, and the job's own data set is not touched by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.cli.commands import main
from gemma_batch.storage.fs import open_store

from .helpers import assert_each_once, cli, data_set, write_spec

NOWHERE = "127.0.0.1:1"
ROWS, SHARDS, ASKED = 120, 3, 40
IDS = [f"{shard}-{n}" for shard in range(SHARDS) for n in range(ROWS)]
OURS = ("results/", "errors/", "_run/manifest", "_run/units", "_run/lease", "_run/re")


def job(folder: Path, model: str, output: str, tally: Path) -> Path:
    """Lines of text in three files; every tenth row has no text and fails."""
    (folder / "in").mkdir()
    for shard in range(SHARDS):
        rows = [
            {"id": f"{shard}-{n}", "text": None if n % 10 == 0 else f"text {n}", "n": n}
            for n in range(ROWS)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "in" / f"{shard}.jsonl").write_text(text)
    return write_spec(
        folder / "job.yaml",
        name="tried",
        input={"path": f"{folder}/in/*.jsonl", "id": "id"},
        prompt={"user": "{{ text }}"},
        model=model,
        sampling={"max_tokens": 4},
        output={"path": output, "keep": ["n"]},
        resources={"engine": "echo", "max_model_len": 256, "engine_args": {"tally": str(tally)}},
        policy={"max_failed": "20%", "unit_rows": 16},
    )


def asked(tally: Path) -> int:
    """How many answers engines have made."""
    return tally.stat().st_size if tally.exists() else 0


def test_a_try_asks_its_rows_once_and_leaves_the_rest(
    s3: Any,
    tiny: str,
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asked once, shown again without Ray, and taken by the run, which is complete afterwards."""
    output, tally, page = f"{s3.bucket('tried')}/out", tmp_path / "tally", tmp_path / "try.html"
    spec, store = job(tmp_path, tiny, output, tally), open_store(output)
    words = ("try", str(spec), "-n", str(ASKED), "--html", str(page))
    done = cli(*words, "--json", RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    assert (trial["rows"], trial["fresh"], trial["population"]["rows"]) == (ASKED, True, len(IDS))
    assert trial["population"]["exact"]
    assert trial["bill"] is None, "an engine that computes nothing"
    failed = {row["id"] for row in trial["samples"] if row["answers"][0]["code"]}
    assert failed == {row["id"] for row in trial["samples"] if row["id"].endswith("0")}
    assert trial["failed"] == len(failed) > 0
    assert {one["code"] for one in trial["failures"]} == {"null_value"}
    for row in trial["samples"]:
        if row["id"] not in failed:
            assert f"text {row['id'].split('-')[1]}" in row["prompt"]
            assert row["answers"][0]["output"]
    answered = ASKED - len(failed)
    assert asked(tally) == answered
    assert trial["speeds"][0]["rows_per_second"] > 0
    assert page.read_text().count('<section class="row">') == ASKED
    assert not [key for key in store.list() if key.startswith(OURS)], "the job's own files"

    # Again: no Ray can be reached, and nothing is asked.
    monkeypatch.setenv("RAY_ADDRESS", NOWHERE)
    with pytest.raises(SystemExit) as ended:
        main(["try", str(spec), "-n", str(ASKED), "--set", "policy.max_failed=0"])
    said = capsys.readouterr().err
    assert ended.value.code == 3, said
    assert "asked before" in said
    assert "null_value" in said
    assert asked(tally) == answered

    done = cli("run", str(spec), RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    results, errors = assert_each_once(output, IDS)
    assert len(errors) == sum(n.endswith("0") for n in IDS)
    assert asked(tally) == len(results), "each row was asked once, the tried ones in the try"
    assert len(data_set(trial["folder"], "results")) == answered


def test_a_model_of_routes_is_refused(tiny: str, tmp_path: Path) -> None:
    """`--model` takes the place of `model` alone; and a page is a file."""
    spec = job(tmp_path, tiny, str(tmp_path / "out"), tmp_path / "tally")
    routed = write_spec(
        tmp_path / "routes.yaml",
        input={"path": f"{tmp_path}/in/*.jsonl"},
        prompt={"user": "{{ text }}"},
        routes=[{"name": "a", "when": "n > 3", "model": tiny}, {"name": "b", "model": tiny}],
        output={"path": str(tmp_path / "out")},
    )
    done = cli("try", str(routed), "--model", tiny, RAY_ADDRESS=NOWHERE)
    assert done.returncode == 2
    assert "--set routes.0.model" in done.stderr
    for page in (f"{tmp_path}/in", f"{spec}/page.html"):
        done = cli("try", str(spec), "--html", page, RAY_ADDRESS=NOWHERE)
        assert done.returncode == 2
        assert "folder" in done.stderr
    assert not (tmp_path / "out").exists()
