"""As a library: the caller's process, and the caller's Ray, are after a run as they were before."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port, ray_head

from .helpers import ROOT, environment


def notebook(kind: str, folder: Path, model: str, **env: str) -> None:
    """Run the program of a caller to its end; it fails where something is not as it was."""
    command = [sys.executable, "-m", "tests.integration.notebook", kind, str(folder), model]
    done = subprocess.run(
        command,
        env=environment(**env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert "as it was" in done.stdout


def test_the_callers_ray_and_process_are_left_as_they_were(
    model: str, cluster: str, tmp_path: Path
) -> None:
    """A run, refusals and a run that stops half-way, beside the caller's own Ray Data jobs."""
    notebook("own", tmp_path, model, RAY_ADDRESS=cluster)


@pytest.mark.long
def test_so_do_a_sort_a_retry_and_reading_tasks(model: str, cluster: str, tmp_path: Path) -> None:
    """Reading tasks compute on one core, and leave their process as it was too."""
    notebook("own-long", tmp_path, model, RAY_ADDRESS=cluster)


@pytest.mark.long
def test_ray_that_a_run_opened_is_closed_with_the_last_run(model: str, tmp_path: Path) -> None:
    """Two runs one after the other and side by side, then the caller's own job."""
    port = free_port()

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    options = ["--include-dashboard=false"]
    with ray_head(tmp_path, port, *options, env=environment(), up=up, cpus=4):
        notebook("none", tmp_path, model, RAY_ADDRESS=f"127.0.0.1:{port}")
