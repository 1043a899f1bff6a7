"""Task processes that are killed or stopped in mid-run: a real Airflow, a real Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gemma_batch.committing.ledger import Ledger
from gemma_batch.storage.fs import open_store
from tests.integration.helpers import assert_each_once
from tests.warm import Process

from .conftest import HERE

if TYPE_CHECKING:
    from tests.ops.conftest import Platform

    from .conftest import Airflow, SpecOf

ROWS = 500
RATE = 25.0  # rows per second: the job goes on long after its task was killed
SLOW, FAST = 8.0, 1000.0  # of jobs that are stopped in mid-run, and then have to end


def written(
    spec_of: SpecOf, folder: Path, *, deferrable: bool, rate: float = RATE
) -> tuple[str, dict[str, Any]]:
    """A spec that takes a while, as a file: its output, and the conf of a DAG run on it."""
    spec = spec_of("long", rows=ROWS, rate=rate)
    path = folder / "spec.yaml"
    path.write_text(json.dumps(spec))
    return spec["output"]["path"], {"spec": str(path), "deferrable": deferrable}


@contextlib.contextmanager
def task_of(airflow: Airflow, conf: dict[str, Any], log: Path) -> Iterator[Process]:
    """A process that runs the DAG `one`; ended by its process group at the latest here."""
    command = [str(HERE / "dag_test.py"), "one", json.dumps(conf), "null"]
    with log.open("w") as file:
        process = airflow.warm.start(
            *command, env=airflow.env, stdout=file, stderr=file, new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def jobs_on(platform: Platform, output: str) -> list[dict[str, Any]]:
    """What `gemma-batch list` tells of the jobs that write to an output."""
    done = platform.cli("list", "--json")
    assert done.returncode == 0, done.stderr
    return [one for one in json.loads(done.stdout) if one["output"] == output]


def wait_for(what: Callable[[], Any], *, log: Path, seconds: float = 300) -> None:
    """Until it is true, or fail with the task's log."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, log.read_text()[-6000:]
        time.sleep(0.3)


def committed(output: str) -> int:
    """Parts that are there."""
    return len(Ledger(open_store(output)).committed())


@pytest.mark.parametrize(
    "deferrable",
    [
        pytest.param(True, id="deferred"),
        pytest.param(False, id="synchronous", marks=pytest.mark.long),
    ],
)
def test_a_killed_task_finds_its_job_again(
    airflow: Airflow, platform: Platform, spec_of: SpecOf, tmp_path: Path, deferrable: bool
) -> None:
    """SIGKILL leaves the job alone; the next try attaches to it, and no second one is started."""
    output, conf = written(spec_of, tmp_path, deferrable=deferrable)
    log = tmp_path / "killed.log"
    with task_of(airflow, conf, log) as process:
        wait_for(lambda: committed(output), log=log)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (job,) = jobs_on(platform, output)
    assert job["status"] == "RUNNING"

    run, again = airflow.dag_test("one", conf)
    name = "deferred" if deferrable else "here"
    assert run["tasks"][name]["state"] == "success", again
    assert f"attached to {job['id']} (" in again
    assert [(one["id"], one["status"]) for one in jobs_on(platform, output)] == [
        (job["id"], "SUCCEEDED")
    ]
    facts = run["tasks"][name]["xcom"]["return_value"]
    assert (facts["submission_id"], facts["answered"]) == (job["id"], ROWS)
    assert [event["extra"] for event in run["events"]] == [facts]
    assert_each_once(output, [f"{n}" for n in range(ROWS)])


@pytest.mark.long
def test_a_stopped_task_stops_its_job_and_a_retry_resumes(
    airflow: Airflow, platform: Platform, spec_of: SpecOf, tmp_path: Path
) -> None:
    """SIGTERM is what Airflow sends to a task that a person ends: the job ends in order, keeps
    what is committed, and the task's next try is the job's next attempt on the same output."""
    output, conf = written(spec_of, tmp_path, deferrable=False, rate=SLOW)
    log = tmp_path / "stopped.log"
    with task_of(airflow, conf, log) as process:
        wait_for(lambda: committed(output), log=log)
        os.kill(process.pid, signal.SIGTERM)
        (first,) = jobs_on(platform, output)
        wait_for(lambda: f"stopped {first['id']}" in log.read_text(), log=log)
        wait_for(lambda: jobs_on(platform, output)[-1]["status"] != "RUNNING", log=log)
    before = committed(output)
    assert before
    assert "interrupted" in platform.cli("logs", first["id"]).stdout, "it was not just killed"

    spec = json.loads(Path(conf["spec"]).read_text())
    spec["resources"]["engine_args"]["rows_per_second"] = FAST
    Path(conf["spec"]).write_text(json.dumps(spec))
    run, again = airflow.dag_test("one", conf)
    assert run["tasks"]["here"]["state"] == "success", again
    tries = sorted(one["id"] for one in jobs_on(platform, output))
    assert tries == [first["id"], first["id"].replace("-r1", "-r2")]
    assert run["tasks"]["here"]["xcom"]["return_value"]["answered"] == ROWS
    assert "resuming" in again
    assert_each_once(output, [f"{n}" for n in range(ROWS)])


def test_ending_a_deferred_task_stops_its_job(
    airflow: Airflow, platform: Platform, spec_of: SpecOf, tmp_path: Path
) -> None:
    """What the triggerer calls when a person ends or clears a task that no worker holds."""
    output, conf = written(spec_of, tmp_path, deferrable=True, rate=SLOW)
    submitted = platform.cli("submit", conf["spec"], "--json")
    job = json.loads(submitted.stdout)["id"]
    wait_for(lambda: committed(output), log=Path(conf["spec"]))
    airflow.run(
        "-c",
        "import asyncio\n"
        "from gemma_batch.ops.airflow import GemmaBatchTrigger\n"
        f"trigger = GemmaBatchTrigger(conn_id='gemma_batch_ray', submission_id={job!r})\n"
        "asyncio.run(trigger.on_kill())",
    )
    wait_for(lambda: jobs_on(platform, output)[0]["status"] != "RUNNING", log=Path(conf["spec"]))
    assert "interrupted" in platform.cli("logs", job).stdout, "it was not just killed"
