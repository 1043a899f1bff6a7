"""Submitted jobs on a real Ray cluster: one job per output, its log, its end and its exit code."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from gemma_batch.errors import SpecError, UserError
from gemma_batch.ops.ray_jobs import RayJobs, submission_id
from gemma_batch.spec import JobSpec
from tests.conftest import free_port
from tests.integration.helpers import cli, data_set, write_spec
from tests.integration.known_lines import strange_lines

if TYPE_CHECKING:
    from .conftest import Platform

JOB, ROWS, UNIT = "Ray job: test", 400, 10


def spec_at(folder: Path, tiny: str, *, rate: float, **more: Any) -> Path:
    """A job on the echo engine that takes `ROWS` / `rate` seconds."""
    table = pa.table({"id": list(range(ROWS)), "doc": [f"document {n}" for n in range(ROWS)]})
    pq.write_table(table, folder / "in.parquet", row_group_size=50)
    return write_spec(
        folder / "job.yaml",
        name=JOB,
        input={"path": str(folder / "in.parquet"), "id": "id"},
        prompt={"user": "{{ doc }}"},
        model=tiny,
        sampling={"max_tokens": 4},
        output={"path": str(folder / "out")},
        resources={
            "engine": "echo",
            "max_model_len": 256,
            "replicas": 1,
            "engine_args": {"rows_per_second": rate},
        },
        policy={"unit_rows": UNIT, "progress_seconds": 1},
        **more,
    )


def samples(platform: Platform, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and values of a metric of our jobs on the node's exporter, as soon as it is there."""
    deadline = time.monotonic() + 180
    while True:
        text = requests.get(platform.metrics, timeout=10).text
        found = [
            (one.labels, one.value)
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name == name and one.labels["run"] == JOB
        ]
        if found:
            return found
        assert time.monotonic() < deadline, text[-2000:]
        time.sleep(0.5)


def answered(folder: Path) -> list[int]:
    return sorted(int(row["id"]) for row in data_set(str(folder / "out"), "results"))


def test_submitting_twice_runs_once_and_the_log_can_be_followed(
    platform: Platform, tiny: str, tmp_path: Path
) -> None:
    """The second submit attaches; `logs -f` ends with the job; a third finds it finished. The file
    of the answers' schema, which only this machine's current folder leads to, travels along."""
    shape = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    answer = {"schema": os.path.relpath(tmp_path / "shape.json")}
    job = str(spec_at(tmp_path, tiny, rate=40, answer=answer))
    # An address in the environment must not win over the one that was given.
    lost = {"RAY_ADDRESS": f"http://127.0.0.1:{free_port()}"}
    first = platform.cli("submit", job, "--json", **lost)
    assert first.returncode == 0, first.stderr
    submitted = json.loads(first.stdout)
    assert submitted["id"].startswith("ray-job-test-")
    assert submitted["id"].endswith("-r1")
    assert not submitted["attached"]
    assert submitted["rows"] == ROWS
    second = platform.cli("submit", job, "--json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["id"] == submitted["id"]
    assert json.loads(second.stdout)["attached"]

    # Other work on the same output is refused while this one runs.
    other = platform.cli("submit", job, "--set", "sampling.max_tokens=5")
    assert other.returncode == 2
    assert "another configuration" in other.stderr
    assert submitted["id"] in other.stderr

    rows = sum(value for _, value in samples(platform, "ray_gemma_batch_rows_total"))
    assert 0 < rows <= ROWS, "a Prometheus that scrapes the node sees the rows"
    assert {"run", "route", "replica", "outcome"} <= set(
        samples(platform, "ray_gemma_batch_rows_total")[0][0]
    )

    followed = platform.cli("logs", "-f", submitted["id"])
    assert followed.returncode == 0, followed.stderr
    assert f"{ROWS} rows" in followed.stderr
    assert answered(tmp_path) == list(range(ROWS))
    kinds = {type(row["answer"]["a"]) for row in data_set(str(tmp_path / "out"), "results")}
    assert kinds == {int}
    log = platform.cli("logs", str(tmp_path / "out"))
    assert followed.stderr.splitlines() == log.stdout.splitlines(), "none twice, none missing"

    third = platform.cli("submit", job, "--wait", "--json")
    assert third.returncode == 0, third.stderr
    assert json.loads(third.stdout)["status"] == "SUCCEEDED"
    assert third.stderr == (
        "planning ...\n"
        f"{submitted['id']} has finished already: {ROWS} of {ROWS} rows answered; nothing was "
        f"started; `gemma-batch report {tmp_path}/out` shows it\n"
    )
    assert strange_lines(followed.stderr) == [], "nor a line of Ray's"
    listed = json.loads(platform.cli("list", "--json").stdout)
    mine = [one for one in listed if one["output"] == str(tmp_path / "out")]
    assert [one["id"] for one in mine] == [submitted["id"]]
    text = platform.cli("list").stderr
    assert f"{submitted['id']}  succeeded\n  {tmp_path}/out  since " in text


@pytest.mark.long
def test_a_finished_job_runs_again_when_there_may_be_something_to_do(
    platform: Platform, tiny: str, tmp_path: Path
) -> None:
    """Another policy, or an input that grows; not for other resources."""
    job = str(spec_at(tmp_path, tiny, rate=10_000))
    submissions = [
        ((), "-r1"),
        (("--set", "resources.replicas=2"), "-r1"),
        (("--set", "policy.max_failed=3"), "-r2"),
        (("--grow",), "-r3"),
        (("--grow",), "-r4"),
    ]
    for options, attempt in submissions:
        done = platform.cli("submit", job, "--wait", "--json", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["id"].endswith(attempt), options
    assert answered(tmp_path) == list(range(ROWS))


def test_a_cancelled_job_stops_in_order_and_its_successor_resumes(
    platform: Platform, tiny: str, tmp_path: Path
) -> None:
    """What was committed stays as it is; the next submit is attempt 2 and does only the rest."""
    job = str(spec_at(tmp_path, tiny, rate=8))  # most of a minute, and commands take seconds
    submitted = json.loads(platform.cli("submit", job, "--json").stdout)
    results = tmp_path / "out" / "results"
    deadline = time.monotonic() + 240
    while not results.is_dir() or len(list(results.iterdir())) < 2:
        assert time.monotonic() < deadline, platform.cli("logs", submitted["id"]).stdout
        time.sleep(0.2)
    live = json.loads(cli("status", str(tmp_path / "out"), "--json").stdout)
    assert live["state"] == "held", "from here too, without the cluster's address"
    assert live["rows_per_second"] > 0
    assert live["seconds_left"] > 0
    ended = platform.cli("cancel", submitted["id"])
    assert ended.returncode == 0, ended.stderr
    assert "STOPPED" in ended.stderr
    assert "interrupted" in platform.cli("logs", submitted["id"]).stdout, "it was not just killed"
    kept = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    assert 0 < len(kept) < ROWS // UNIT
    status = json.loads(cli("status", str(tmp_path / "out"), "--json").stdout)
    assert status["state"] == "stopped"

    faster = ("--set", "resources.engine_args.rows_per_second=1000")
    again = platform.cli("submit", job, "--wait", "--json", *faster)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["id"] == submitted["id"].replace("-r1", "-r2")
    assert answered(tmp_path) == list(range(ROWS))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.long
def test_the_exit_code_survives(platform: Platform, tiny: str, tmp_path: Path) -> None:
    """Too many failed rows: 3 for whoever waited, here and in what the cluster tells."""
    job = spec_at(tmp_path, tiny, rate=10_000)
    done = platform.cli(
        "submit", str(job), "--wait", "--json", "--set", "prompt.user={{ doc.missing }}"
    )
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert (found["status"], found["exit_code"]) == ("FAILED", 3)


def test_what_is_wrong_with_an_address_or_a_token_is_said(
    platform: Platform, tiny: str, tmp_path: Path
) -> None:
    """Exit code 2 and one sentence; nothing is submitted."""
    job = str(spec_at(tmp_path, tiny, rate=100))
    wrong = platform.cli("submit", job, RAY_AUTH_TOKEN="0" * 64)
    assert wrong.returncode == 2, wrong.stderr
    assert "refuses the token" in wrong.stderr
    none = cli("submit", job, "--address", platform.address, RAY_AUTH_MODE="disabled")
    assert none.returncode == 2, none.stderr
    assert "asks for a token" in none.stderr
    nobody = cli("submit", job, "--address", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 2, nobody.stderr
    assert "no Ray dashboard answers" in nobody.stderr
    assert "Traceback" not in wrong.stderr + none.stderr + nobody.stderr
    unknown = platform.cli("logs", "no-such-job")
    assert unknown.returncode == 2
    assert "'no-such-job'" in unknown.stderr
    assert not [
        one
        for one in json.loads(platform.cli("list", "--json").stdout)
        if one["output"] == str(tmp_path / "out")
    ]


@pytest.mark.parametrize("address", ["ray://head:10001", "http://", "a b"])
def test_an_address_that_can_be_no_dashboard_is_refused(address: str) -> None:
    """Without asking the network."""
    with pytest.raises(UserError, match="http://HOST:8265"):
        RayJobs(address)


def test_a_submission_id_names_output_and_fingerprint() -> None:
    """Equal for equal work, another for another output, fingerprint or attempt; safe in URLs."""
    one = submission_id("A Job/ü", "s3://b/out", "f1")
    assert one == submission_id("A Job/ü", "s3://b/out/", "f1")
    assert one.startswith("a-job-")
    assert one.replace("-", "").isalnum()
    others = {
        submission_id("A Job/ü", "s3://b/out2", "f1"),
        submission_id("A Job/ü", "s3://b/out", "f2"),
        submission_id("A Job/ü", "s3://b/out", "f1", 2),
    }
    assert len(others | {one}) == 4


def test_paths_that_do_not_travel_are_refused(tiny: str, tmp_path: Path) -> None:
    """A relative path would be looked for in the job's own folder on the cluster."""
    from gemma_batch.ops.ray_jobs import _check_travels

    path = spec_at(tmp_path, tiny, rate=1)
    for change in ("input.path=in/*.parquet", "output.path=out"):
        with pytest.raises(SpecError, match=change.split("=")[0]):
            _check_travels(JobSpec.load(path, [change]))
    _check_travels(JobSpec.load(path, ["output.path=s3://bucket/out"]))
