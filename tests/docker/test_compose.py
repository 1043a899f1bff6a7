"""The compose file: checked against the compose specification, and its job run for real.

There is no container engine here, so the services' commands run as plain processes, with the
environment that the file gives them and moto in MinIO's place.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import S3Server, free_port, ray_head
from tests.integration.helpers import assert_each_once, environment

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker" / "compose.yaml"
ROWS = 400
TEXT = COMPOSE.read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]


def check(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The verdict of the compose specification's own schema."""
    path = folder / "compose.yaml"
    path.write_text(text)
    tool = [Path(sys.executable).parent / "check-jsonschema"]
    options = ["--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run([*tool, *options], capture_output=True, text=True)


def defaults(values: dict[str, str]) -> dict[str, str]:
    """An environment with `${NAME:-default}` replaced by the default."""
    return {k: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", v) for k, v in values.items()}


def test_the_file_is_valid(tmp_path: Path) -> None:
    """No unknown key, no wrong type."""
    done = check(TEXT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healtcheck:"),
        ("condition: service_healthy", "condition: service_heathy"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("shm_size: 1gb", "shm_sizes: 1gb"),
        ("command: [server,", "comand: [server,"),
    ],
)
def test_a_planted_typo_is_caught(right: str, wrong: str, tmp_path: Path) -> None:
    """The check can fail."""
    assert right in TEXT
    assert check(TEXT.replace(right, wrong, 1), tmp_path).returncode != 0


def test_services_wait_for_health_and_are_closed_to_the_outside() -> None:
    """What is waited for has a health check; ports are bound to this machine; images are pinned."""
    volumes = yaml.safe_load(TEXT)["volumes"]
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, (name, other)
            assert "healthcheck" in SERVICES[other], (name, other)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.fullmatch(r"\S+:(?!latest)\S+", service["image"]), name
        assert {mount.split(":")[0] for mount in service.get("volumes", [])} <= volumes.keys()
    build = SERVICES["quickstart"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file()
    assert re.search(
        rf"^FROM \S+ AS {build['target']}$", (ROOT / "docker/Dockerfile").read_text(), re.M
    )


def test_ray_and_the_quickstart_share_token_and_storage() -> None:
    """One token, one object store, and the head runs drivers but computes nothing."""
    head, worker, job = (SERVICES[n] for n in ("ray-head", "ray-worker", "quickstart"))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY"):
        assert head["environment"][name] == worker["environment"][name] == job["environment"][name]
    minio = SERVICES["minio"]["environment"]
    assert minio["MINIO_ROOT_PASSWORD"] == job["environment"]["AWS_SECRET_ACCESS_KEY"]
    assert minio["MINIO_ROOT_USER"] == job["environment"]["AWS_ACCESS_KEY_ID"]
    assert "--num-cpus=0" in head["command"]
    assert "--address=ray-head:6379" in worker["command"]


@pytest.mark.long
def test_the_quickstart_runs_against_object_storage(s3: S3Server, tmp_path: Path) -> None:
    """The job service's own command answers every message, at least 90% of them right; a second
    time there is nothing to do.

    Also: both health checks are true of a node that is up, without the token.
    """
    job = copy.deepcopy(SERVICES["quickstart"])
    given = {**defaults(job["environment"]), "AWS_ENDPOINT_URL_S3": s3.endpoint}
    port, agent = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    env = environment(HOME=str(tmp_path), **given)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"

    def up() -> bool:
        with contextlib.suppress(requests.RequestException):
            headers = {"Authorization": f"Bearer {given['RAY_AUTH_TOKEN']}"}
            return requests.get(f"{address}/api/version", headers=headers, timeout=5).ok
        return False

    options = [f"--dashboard-port={port}", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
    with ray_head(tmp_path, free_port(), *options, env=env, up=up, agent=agent):
        for service, real in (("ray-head", {8265: port}), ("ray-worker", {52365: agent})):
            _, python, *arguments = SERVICES[service]["healthcheck"]["test"]
            assert python == "python"
            for old, new in real.items():
                arguments = [one.replace(f":{old}/", f":{new}/") for one in arguments]
            healthy([sys.executable, *arguments])
        command = [sys.executable, *job["command"][1:]]
        command = [one.replace("http://ray-head:8265", address) for one in command]
        assert address in command[-1]
        command.append(f"--rows={ROWS}")
        for say in ("submitted", "attached"):
            done = subprocess.run(
                command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=500
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert say in done.stderr
            (share,) = re.findall(r"^accuracy: ([\d.]+)%", done.stderr, re.MULTILINE)
            assert float(share) >= 90
    found = s3.client.get_object(Bucket="quickstart", Key="out/_run/report.json")
    assert json.loads(found["Body"].read())["answered"] == ROWS
    ids = [row["id"] for row in _messages(s3)]
    assert len(ids) == ROWS
    assert_each_once("s3://quickstart/out", ids)


def healthy(command: list[str]) -> None:
    """The check says so within the time that compose gives it."""
    deadline = time.monotonic() + 240
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(1)


def _messages(s3: S3Server) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = s3.client.list_objects_v2(Bucket="quickstart", Prefix="messages/")["Contents"]
    bodies = [
        s3.client.get_object(Bucket="quickstart", Key=key["Key"])["Body"].read() for key in keys
    ]
    return [row for body in bodies for row in pq.read_table(pa.BufferReader(body)).to_pylist()]
