"""Fixtures for everyone: a real S3 server over sockets, a tiny Gemma, a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

from gemma_batch.family.tiny import build_tiny_gemma
from jobs.stdlib_docs import collect
from tests.examples import LONG
from tests.faults.cluster import free_port
from tests.integration.helpers import WARM_RAY, environment

# For the processes that tests start (see the Makefile).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
STARTS = 3  # of a head: a raylet ends itself when its agents are slow (membership.STARTS)
HEAD_SECONDS = 240  # for a head node to start, on a busy machine

# Shells start background jobs with SIGINT ignored, and so would be every process tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Tests that share something dear run in one of the processes of `make test` (xdist's workers), and
# the longest begin first: by how a test's path begins. Others go by their files.
GROUPS = {
    "tests/ops/airflow": "airflow",
    "tests/integration": "cluster",
    "tests/jobs/test_try_recipes.py": "cluster",
    "tests/ops": "jobs",
    "tests/faults": "faults",
    "tests/docker/test_compose.py": "compose",
    "tests/benchmarks": "benchmarks",
    "tests/infra/test_aws.py": "cluster",
    "tests/hostile/test_secrets.py": "secrets",
    "tests/engines": "engines",
}

settings.register_profile("short", deadline=None)
settings.register_profile("long", deadline=None, max_examples=1000)
settings.load_profile("long" if LONG else "short")


def pytest_configure() -> None:
    """Each of xdist's workers leads a session, by which its processes are told from others'."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.setsid()


def group_of(nodeid: str) -> str:
    """The tests that run in the same process as this one."""
    path = nodeid.partition("::")[0]
    return next((name for start, name in GROUPS.items() if path.startswith(start)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests into the order in which their groups are to begin."""
    order = {name: place for place, name in enumerate(dict.fromkeys(GROUPS.values()))}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole groups to whoever is free, in that order."""
    # Not by marks and `--dist loadgroup`: those of xdist 3.8 do nothing in pytest 9.2.
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.fixture(autouse=True)
def _short_patience() -> Iterator[None]:
    """A test that plays a worker makes this process as patient as one: end that with the test."""
    from gemma_batch.storage import patience

    yield
    patience.set_patience(patience.QUICK_SECONDS)


class S3Server:
    """A running S3 server; `client` is boto3's, for looking behind our own code's back."""

    def __init__(self, endpoint: str) -> None:
        import boto3

        self.endpoint = endpoint
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)

    def bucket(self, name: str) -> str:
        """Make a bucket (once) and return its URL."""
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """moto's server, and the environment through which every client finds it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield S3Server(f"http://{host}:{port}")
    server.stop()


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real documents: docstrings of the standard library."""
    return [doc["doc"] for doc in collect(2000)]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> str:
    """A folder with a Gemma 3 of about a million random parameters."""
    return str(build_tiny_gemma(tmp_path_factory.mktemp("model") / "tiny", texts=texts))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an even smaller one, for planning and preparing without engines."""
    words = "the quick brown fox jumps over the lazy dog while five wizards box a hundred times"
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return str(build_tiny_gemma(folder, texts=[words] * 50, vocab=600))


@pytest.fixture(scope="session")
def cluster(s3: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster of one node that outlives its drivers, as a real one does."""
    port = free_port()

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    folder = tmp_path_factory.mktemp("ray")
    with ray_head(folder, port, "--include-dashboard=false", env=environment(), up=up):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def ray_head(
    folder: Path,
    port: int,
    *options: str,
    env: dict[str, str],
    up: Callable[[], bool],
    agent: int | None = None,
    cpus: int = 2,
) -> Iterator[None]:
    """A head node with so many `cpus` in a process of its own, from when it is `up`.

    `agent` is the port of its dashboard agent, any free one by default. Each CPU beyond those of a
    job's engines is a process more that reads, which takes seconds to start.
    """
    # Of its own, since Ray's jobs take the cluster that started last in theirs; short, since
    # sockets' paths may not be long.
    session = tempfile.mkdtemp(prefix="gb")
    start = [*WARM_RAY, "start", "--head", f"--port={port}", f"--num-cpus={cpus}", *options]
    start += [
        f"--temp-dir={session}",
        f"--dashboard-agent-listen-port={agent or free_port()}",
        "--disable-usage-stats",
        "--block",
    ]
    log = folder / "ray.log"
    for left in reversed(range(STARTS)):
        with log.open("w") as file:
            head = subprocess.Popen(start, env=env, stdout=file, stderr=file)
        deadline = time.monotonic() + HEAD_SECONDS
        while head.poll() is None and time.monotonic() < deadline:
            # Ray says so when the node is there, which may end after it has opened its port.
            if up() and "Ray runtime started" in log.read_text():
                break
            time.sleep(0.5)
        else:
            _end(head)
            assert left, log.read_text()
            print(f"the head starts once more: {log.read_text()}")
            continue
        break
    try:
        yield
    finally:
        _end(head)
        shutil.rmtree(session, ignore_errors=True)


def _end(head: subprocess.Popen[bytes]) -> None:
    """Kill the head and all below it: by id, so that no other cluster is touched."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=10)
