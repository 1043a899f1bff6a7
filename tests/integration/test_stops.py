"""A run in a person's terminal: it stops when it is asked to, and nobody else talks there."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.storage.fs import open_store
from jobs.stdlib_docs import write_docs

from .helpers import CACHE, ROOT, cli, cold_cli, start_cli, write_spec
from .known_lines import strange_lines

SMALL = str(ROOT / "jobs" / "models" / "language-small")
WAIT = 300  # seconds: a machine may be busy
PANEL = r"\x1b\[[0-9;?]*[A-Za-z]"  # what moves the cursor, and colours


@pytest.fixture
def docs(tmp_path: Path) -> str:
    """60 documents in two files."""
    (tmp_path / "in").mkdir()
    write_docs(tmp_path / "in", rows=60, shards=2)
    return str(tmp_path / "in" / "*.parquet")


def job(docs: str, model: str, output: str, **resources: Any) -> dict[str, Any]:
    return {
        "name": "docs",
        "input": {"path": docs, "id": "id"},
        "prompt": {"user": "{{ doc }}", "overlong": "truncate_end"},
        "model": model,
        "sampling": {"max_tokens": 4},
        "output": {"path": output},
        "resources": {"max_model_len": 256, "replicas": 1, **resources},
        "policy": {"unit_rows": 20, "progress_seconds": 1},
    }


class Terminal:
    """A terminal in which a command runs; `seen` is what came to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stderr = os.fdopen(slave, "w")
        self.seen = ""

    def look(self) -> str:
        """What came until now, without the sequences that draw the panel."""
        os.set_blocking(self._master, False)
        with contextlib.suppress(BlockingIOError):
            while new := os.read(self._master, 65536):
                self.seen += new.decode()
        return re.sub(PANEL, "", self.seen)


def test_a_run_in_a_terminal_stops_while_its_engines_start(
    docs: str, tiny: str, tmp_path: Path, cluster: str
) -> None:
    """It says so at once, does not wait for the engines, and has the last word."""
    tally = tmp_path / "tally"
    args = {"start_seconds": 3600, "tally": str(tally)}
    spec = job(docs, tiny, str(tmp_path / "out"), engine="echo", engine_args=args)
    terminal = Terminal()
    driver = start_cli(
        "run", str(write_spec(tmp_path / "job.yaml", **spec)),
        stderr=terminal.stderr, RAY_ADDRESS=cluster,
    )  # fmt: skip
    deadline = time.monotonic() + WAIT
    while not tally.exists():  # the engine has begun to start
        said = terminal.look()  # a terminal that nobody reads would stop the driver
        assert driver.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    while driver.poll() is None:
        said = terminal.look()
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    said = terminal.look()
    assert driver.returncode == 130, said
    assert "starting engines" in said
    _, stopping, after = said.partition("stopping: ")
    assert stopping, said
    lines = [line.strip() for line in f"{stopping}{after}".splitlines()]
    assert [line for line in lines if line] == [
        "stopping: what is committed stays; a second Ctrl-C ends at once",
        "interrupted; what is committed stays, run the same command again to go on",
    ]
    lease = open_store(str(tmp_path / "out")).read("_run/lease.json")
    assert b'"released": true' in lease


def test_a_run_without_a_cluster_writes_only_its_own_lines(
    s3: Any, docs: str, tmp_path: Path
) -> None:
    """From S3 to S3, with the cluster of its own that Ray starts and ends, as people start it."""
    store = open_store(f"{s3.bucket('lines')}/in")
    for path in sorted((tmp_path / "in").iterdir()):
        store.create(path.name, path.read_bytes())
    output = f"{store.url.removesuffix('/in')}/out"
    spec = job(f"{store.url}/*.parquet", SMALL, output, engine="echo")
    done = cold_cli("run", str(write_spec(tmp_path / "job.yaml", **spec)), RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert strange_lines(done.stderr) == []
    assert re.search(r"^  hours +0\.\d\d engine-hours \(no GPU\) in all runs$", done.stderr, re.M)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stops_while_vllm_starts(
    docs: str, tmp_path: Path, cluster: str, number: signal.Signals
) -> None:
    """Long before vLLM has loaded the model, and the next start finds nothing in its way."""
    resources = {
        "cpu_kv_cache_gib": 1,
        "engine_args": {"enforce_eager": True},
    }
    spec = job(docs, SMALL, str(tmp_path / "out"), **resources)
    path = str(write_spec(tmp_path / "job.yaml", **spec))
    driver = start_cli("run", path, RAY_ADDRESS=cluster, VLLM_CACHE_ROOT=str(CACHE))
    deadline = time.monotonic() + WAIT
    while "starting engines" not in driver.said(1):
        assert driver.poll() is None, driver.said(1)
        assert time.monotonic() < deadline, driver.said(1)
        time.sleep(0.1)
    driver.send_signal(number)
    assert driver.wait(WAIT) == 130
    said = driver.said(1)
    assert strange_lines(said) == []
    assert "stopping" in said
    assert said.splitlines()[-1].startswith("interrupted; ")
    done = cli("run", path, RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    assert strange_lines(done.stderr) == []
