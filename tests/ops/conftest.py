"""A Ray cluster with a dashboard and a token, as a platform team runs one."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import free_port
from tests.integration.helpers import cli, environment

START_SECONDS = 120


@dataclass(frozen=True)
class Platform:
    """The dashboard's address and what a client needs in its environment."""

    address: str
    token: str
    metrics: str

    def cli(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The command line, with the cluster's token."""
        given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, **env}
        return cli(*arguments, "--address", self.address, **given)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One node; ended by id."""
    folder = tmp_path_factory.mktemp("platform")
    token, port, metrics = secrets.token_hex(32), free_port(), free_port()
    bin_folder = Path(sys.executable).parent
    env = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=token,
        HOME=str(folder),
        RAY_metrics_report_interval_ms="1000",
        PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    )
    start = [str(bin_folder / "ray"), "start", "--head", f"--port={free_port()}", "--num-cpus=4"]
    start += ["--include-dashboard=true", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    start += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={metrics}"]
    start += ["--disable-usage-stats", "--block"]
    log = (folder / "ray.log").open("w")
    head = subprocess.Popen(start, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    headers = {"Authorization": f"Bearer {token}"}
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/api/version", headers=headers, timeout=5).ok:
                break
        assert head.poll() is None, (folder / "ray.log").read_text()
        assert time.monotonic() < deadline, (folder / "ray.log").read_text()
        time.sleep(0.5)
    yield Platform(address, token, f"http://127.0.0.1:{metrics}/metrics")
    family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=10)
