"""Ray that does not come up is a sentence, and nothing is left of the try."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from gemma_batch.cluster.membership import _whole_or_nothing
from tests.conftest import free_port, ray_head
from tests.integration.helpers import ROOT, environment

# The program of a caller: it tries, says what was raised, and what is left in the process.
PROGRAM = """
import os, sys, time
import psutil, ray
from gemma_batch.cluster.membership import joined
from gemma_batch.errors import UserError

before = dict(os.environ)
try:
    with joined(sys.argv[1] if sys.argv[1:] else None):
        print("up")
except UserError as err:
    print(err)
assert not ray.is_initialized()
assert dict(os.environ) == before
deadline = time.monotonic() + 30
while left := psutil.Process().children(recursive=True):
    assert time.monotonic() < deadline, left
    time.sleep(0.1)
"""


def attempt(*address: str, **env: str) -> str:
    """What a caller gets that wants to join Ray."""
    given = {name: value for name, value in environment(**env).items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *address],
        env=given,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def test_a_start_that_fails_leaves_no_process_of_ray() -> None:
    """And every process that the caller started, also meanwhile."""

    def start(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])

    rays = str(Path(ray.__file__).parent / "core" / "gcs_server")
    before, started = start(rays), []

    def fail() -> None:
        with _whole_or_nothing():
            started.extend([start(rays), start("of the caller")])
            raise TimeoutError

    try:
        with pytest.raises(TimeoutError):
            fail()
        ended = [process.poll() is not None for process in (before, *started)]
        assert ended == [False, True, False]
    finally:
        for process in (before, *started):
            process.kill()
            process.wait()


@pytest.mark.long
def test_a_folder_that_is_too_long_for_sockets_is_named(tmp_path: Path) -> None:
    """RAY_TMPDIR below a deep folder."""
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    said = attempt(RAY_TMPDIR=str(folder))
    assert "Ray did not start on this machine" in said
    assert "Name a shorter folder with RAY_TMPDIR" in said


@pytest.mark.long
def test_a_node_that_does_not_start_in_time_is_a_sentence() -> None:
    """The node registers too late, as on a machine that is very busy."""
    late = "NodeInfoGcsService.grpc_server.RegisterNode=100000000:100000000"  # microseconds
    said = attempt(RAY_testing_asio_delay_us=late)
    assert "Ray did not start on this machine: The current node timed out" in said
    assert "very busy" in said


@pytest.mark.long
def test_a_cluster_whose_head_hangs_or_was_killed_is_a_sentence(tmp_path: Path) -> None:
    """A hanging head still accepts connections; both are found in seconds."""
    port = free_port()
    where = f"127.0.0.1:{port}"

    def gcs() -> psutil.Process:
        attributes = psutil.process_iter(["name"])  # without those that end meanwhile
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
        return next(p for p in attributes if p.pid in ours and p.info["name"] == "gcs_server")

    def up() -> bool:
        return attempt(where) == "up\n"

    with ray_head(tmp_path, port, "--include-dashboard=false", env=environment(), up=up):
        head = gcs()
        os.kill(head.pid, signal.SIGSTOP)
        started = time.monotonic()
        assert f"no Ray cluster answers at '{where}' within 10 s" in attempt(where)
        os.kill(head.pid, signal.SIGKILL)
        head.wait(30)
        assert f"no Ray cluster answers at '{where}'" in attempt(where)
        assert time.monotonic() - started < 120
