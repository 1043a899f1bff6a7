"""Promises 5 and 7: what can be wrong is said in one sentence before anything is started.

No Ray cluster is reachable in these tests (RAY_ADDRESS leads nowhere), so a command that got
past its checks would fail in another way.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.cli.commands import main
from gemma_batch.committing.lease import Lease
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.parts import build_results, read_receipt

from .helpers import cli, cold_cli, start_cli, write_spec
from .known_lines import strange_lines

NOWHERE = "127.0.0.1:1"
Change = Callable[[dict[str, Any], Path], None]


@pytest.fixture
def job(tiny: str, tmp_path: Path) -> dict[str, Any]:
    """A spec that is all right, on two small Parquet shards."""
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(2):
        rows = [{"id": f"{shard}-{i}", "doc": f"text {i}", "n": i} for i in range(20)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet")
    return {
        "input": {"path": f"{folder}/*.parquet", "id": "id"},
        "prompt": {"user": "{{ doc }}"},
        "model": tiny,
        "sampling": {"max_tokens": 4},
        "output": {"path": str(tmp_path / "out")},
        "resources": {"engine": "echo", "max_model_len": 512},
    }


def routes(when: str) -> Change:
    def change(data: dict[str, Any], folder: Path) -> None:
        model = data.pop("model")
        data["routes"] = [
            {"name": "some", "when": when, "model": model},
            {"name": "rest", "model": model},
        ]

    return change


def put(path: str, value: Any) -> Change:
    def change(data: dict[str, Any], folder: Path) -> None:
        *parents, last = path.split(".")
        for part in parents:
            data = data.setdefault(part, {})
        data[last] = value

    return change


def corrupt_shard(data: dict[str, Any], folder: Path) -> None:
    shard = folder / "in" / "1.parquet"
    shard.write_bytes(shard.read_bytes()[:-60])


def output_below_a_file(data: dict[str, Any], folder: Path) -> None:
    (folder / "file").write_text("x")
    data["output"]["path"] = str(folder / "file" / "out")


def bucket_that_does_not_exist(data: dict[str, Any], folder: Path) -> None:
    data["output"]["path"] = "s3://there-is-no-such-bucket/out"


def data_without_a_manifest(data: dict[str, Any], folder: Path) -> None:
    store = open_store(data["output"]["path"])
    store.put("results/part-00000-0000000000.parquet", b"PAR1")


REFUSALS: list[tuple[str, Change, str]] = [
    ("unknown key", put("promt", {}), "did you mean 'prompt'?"),
    ("unknown model", put("model", "google/gemma-3-8b-it"), "never released"),
    ("model not Gemma", put("model", "google/gemma-9-9b-it"), "google/gemma-2-9b-it"),
    ("model folder missing", put("model", "./no-such-folder"), "no-such-folder"),
    ("column not in the input", put("prompt.user", "{{ dok }}"), "did you mean {{ doc }}?"),
    ("kept column missing", put("output.keep", ["nope"]), "output.keep names the column 'nope'"),
    ("kept column reserved", put("output.keep", ["id"]), "output.keep: 'id'"),
    ("bad SQL", routes("length(doc >"), "not valid SQL"),
    ("SQL with unknown column", routes("dok = 'x'"), "dok"),
    ("bad Jinja", put("prompt.user", "{{ doc "), "prompt.user"),
    ("no input files", put("input.path", "./nothing-here/*.parquet"), "matches no files"),
    ("no prompt", put("prompt", {}), "prompt: give `user`"),
    ("corrupt Parquet shard", corrupt_shard, "1.parquet"),
    ("output not writable", output_below_a_file, "cannot be used"),
    ("bucket missing", bucket_that_does_not_exist, "there-is-no-such-bucket"),
    ("data without a manifest", data_without_a_manifest, "Restore _run/"),
    ("engine argument unknown", put("resources.engine_args", {"speed": 1}), "'speed'"),
    ("answer longer than context", put("sampling.max_tokens", 9000), "max_model_len"),
    ("context beyond the model's", put("resources.max_model_len", 10**7), "above the context"),
]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [r[1:] for r in REFUSALS],
    ids=[r[0].replace(" ", "-") for r in REFUSALS],
)
def test_refused_with_one_sentence_and_nothing_started(
    s3: Any,
    job: dict[str, Any],
    tmp_path: Path,
    change: Change,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, no traceback, nothing but the sentence; and no output is begun."""
    change(job, tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", NOWHERE)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(write_spec(tmp_path / "job.yaml", **job))])
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if not line.endswith("planning")]
    assert ended.value.code == 2, err
    assert len(said) == 1, err
    assert said[0].startswith("error: ")
    assert sentence in said[0]
    assert out == ""
    assert not (tmp_path / "out" / "_run" / "manifest.json").exists()


def test_an_unreachable_cluster_is_a_clear_refusal(job: dict[str, Any], tmp_path: Path) -> None:
    """A job that is all right but has nowhere to run: exit code 2 and the address."""
    spec = write_spec(tmp_path / "job.yaml", **job)
    done = cli("run", str(spec), RAY_ADDRESS=NOWHERE, timeout=120)
    assert done.returncode == 2, done.stderr
    assert NOWHERE in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_second_driver_is_refused_while_the_first_lives(
    job: dict[str, Any], tmp_path: Path
) -> None:
    """Exit code 4 for the lease; the holder is named."""
    store = open_store(job["output"]["path"])
    lease = Lease(store, beat=0.5)
    lease.acquire()
    try:
        spec = write_spec(tmp_path / "job.yaml", **job)
        done = cli("run", str(spec), RAY_ADDRESS=NOWHERE)
        assert done.returncode == 4, done.stderr
        assert f"process {os.getpid()}" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not lease.lost.is_set()
    finally:
        lease.release()


def test_usage_errors_do_not_look_like_crashes(tmp_path: Path) -> None:
    """A missing file, an unknown command and an output without a run."""
    assert cli("run", str(tmp_path / "none.yaml")).returncode == 2
    assert cold_cli("walk").returncode == 2
    done = cli("status", str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "holds no run" in done.stderr


def test_ctrl_c_stops_cleanly_and_only_the_same_job_goes_on(
    job: dict[str, Any], tmp_path: Path, cluster: str
) -> None:
    """SIGINT: exit code 130, what is committed stays, the lease is free at once.

    Promise 5: another job is refused, naming each field and file that differs.
    """
    job["resources"]["engine_args"] = {"rows_per_second": 5}
    job["policy"] = {"unit_rows": 5}
    spec = write_spec(tmp_path / "job.yaml", **job)
    driver = start_cli("run", str(spec), RAY_ADDRESS=cluster)
    store = open_store(job["output"]["path"])
    deadline = time.monotonic() + 300
    while len(store.list("results")) < 2:
        assert time.monotonic() < deadline
        assert driver.poll() is None, driver.said(1)
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert [line.partition(":")[0] for line in said.splitlines()[-2:]] == [
        "stopping",
        "interrupted; what is committed stays, run the same command again to go on",
    ]
    assert strange_lines(said) == []
    before = len(store.list("results"))
    job["resources"]["engine_args"] = {}
    done = cli("run", str(write_spec(spec, **job)), "--json", RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["answered"] == 40
    assert report["run_rows"] <= 40 - 5 * before + 5

    job["sampling"] = {"max_tokens": 5, "top_p": 0.5}
    job["resources"]["replicas"] = 1  # may change: it changes no result
    done = cli("run", str(write_spec(spec, **job)), RAY_ADDRESS=NOWHERE)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "sampling.max_tokens was 4, now 5" in last
    assert "sampling.top_p was None, now 0.5" in last
    assert "replicas" not in last

    job["sampling"] = {"max_tokens": 4}
    rows = [{"id": "new", "doc": "text", "n": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "2.parquet")
    done = cli("run", str(write_spec(spec, **job)), RAY_ADDRESS=NOWHERE)
    assert done.returncode == 2
    assert "1 input file(s) new" in done.stderr
    assert "2.parquet" in done.stderr

    (tmp_path / "in" / "2.parquet").unlink()
    done = cli("run", str(write_spec(spec, **job)), "--json", RAY_ADDRESS=NOWHERE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run_rows"] == 0

    # A part of another run in the place of one of this run.
    part = store.list("results")[0]
    table = pq.read_table(pa.BufferReader(store.read(part)))
    receipt, failures = read_receipt(store.read(part))
    columns = {name: table[name] for name in table.column_names}
    foreign = build_results(columns, table.schema, {**receipt, "run": "another"}, failures)
    store.put(part, foreign)
    for command in (("run", str(spec)), ("retry", store.url)):
        done = cli(*command, RAY_ADDRESS=NOWHERE)
        assert done.returncode == 2, done.stderr
        assert f"'{part}' is a part of another run" in done.stderr.splitlines()[-1]
