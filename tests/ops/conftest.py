"""A Ray cluster with a dashboard and a token, as a platform team runs one."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.conftest import free_port, ray_head
from tests.integration.helpers import cli, environment


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
    env = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=token,
        HOME=str(folder),
        RAY_metrics_report_interval_ms="1000",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    address = f"http://127.0.0.1:{port}"

    def up() -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{address}/api/version", headers=headers, timeout=5).ok
        return False

    options = ["--include-dashboard=true", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    options.append(f"--metrics-export-port={metrics}")
    with ray_head(folder, free_port(), *options, env=env, up=up, cpus=3):
        yield Platform(address, token, f"http://127.0.0.1:{metrics}/metrics")
