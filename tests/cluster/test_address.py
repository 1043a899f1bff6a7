"""The address of a cluster: refused at once, or with a sentence that says what to do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray._private.utils import check_version_info

from gemma_batch.cluster import address
from gemma_batch.cluster.address import (
    LOCAL,
    check_address,
    cluster_address,
    not_up,
    probe,
    starts_here,
)
from gemma_batch.driver.retry import retry
from gemma_batch.driver.run import run
from gemma_batch.errors import UserError
from gemma_batch.spec import JobSpec


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_the_address_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given wins over RAY_ADDRESS, which wins over a new cluster."""
    assert cluster_address(None) == LOCAL
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address(None) == "head:6379"
    assert cluster_address("other:6379") == "other:6379"


@pytest.mark.parametrize(
    ("given", "variable", "connected", "here"),
    [
        (None, None, False, True),
        (LOCAL, "head:6379", False, True),
        (None, "head:6379", False, False),
        ("head:6379", None, False, False),
        (None, None, True, False),
    ],
)
def test_where_a_run_goes(
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    variable: str | None,
    connected: bool,
    here: bool,
) -> None:
    """To Ray of its own on this machine, or to the Ray that there is."""
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(ray, "is_initialized", lambda: connected)
    assert starts_here(given) is here


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ray://head:10001", "Ray Client"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("http://head:8265", "dashboard"),
    ],
)
def test_urls_are_refused_with_the_way_that_works(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both as an argument and in the environment, and the sentence names `submit`."""
    with pytest.raises(UserError, match=f"--address '{url}'.*{words}.*gemma-batch submit"):
        check_address(url)
    monkeypatch.setenv("RAY_ADDRESS", url)
    with pytest.raises(UserError, match=f"RAY_ADDRESS '{url}'.*{words}.*gemma-batch submit"):
        check_address(None)
    check_address("head:6379")


def test_run_and_retry_refuse_before_they_look_at_anything(tmp_path: Path) -> None:
    """Neither the input nor the output of these exists, and that is not what is said."""
    spec = JobSpec.from_dict(
        {
            "input": {"path": str(tmp_path / "none.jsonl")},
            "prompt": {"user": "{{ doc }}"},
            "model": str(tmp_path / "none"),
            "output": {"path": str(tmp_path / "out")},
        }
    )
    with pytest.raises(UserError, match="gemma-batch submit"):
        run(spec, address="ray://head:10001")
    with pytest.raises(UserError, match="gemma-batch submit"):
        retry(str(tmp_path / "out"), address="ray://head:10001")


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that listens; `talk` is what it does with a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    with connection:
                        talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_something_else_on_the_port_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would try for minutes: with a web server, with one that hangs up or is silent."""
    began, seconds = time.monotonic(), 1.0

    def web(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with server(web) as where, pytest.raises(UserError, match=f"'{where}' is no Ray cluster"):
        probe(where)
    with server(socket.socket.close) as where, pytest.raises(UserError, match=where):
        probe(where)
    monkeypatch.setattr(address, "PROBE_SECONDS", seconds)
    silent = "no Ray cluster answers .* within 1 s"
    with server(lambda _: time.sleep(30)) as where, pytest.raises(UserError, match=silent):
        probe(where)
    assert time.monotonic() - began < 60


def test_nothing_on_the_port_is_found_at_once() -> None:
    """Such is a cluster whose head node was killed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = f"127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{where}'"):
        probe(where)


def test_names_without_a_port_are_left_to_ray() -> None:
    """`auto` finds the cluster of this machine."""
    probe("auto")
    probe(LOCAL)


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011 - Ray's types differ by the case
        call()
    return found.value


def test_other_versions_are_named() -> None:
    """Ray's own check, with a cluster of another Ray and Python."""
    cluster = {"ray_version": "2.40.0", "python_version": "3.9.1"}
    err = raised(lambda: check_version_info(cluster, "node 127.0.0.1"))
    said = str(not_up("head:6379", err))
    for words in ("'head:6379' has Ray 2.40.0 and Python 3.9.1", f"has Ray {ray.__version__}"):
        assert words in said
    assert "install the same versions" in said


def test_a_token_that_is_missing_is_named() -> None:
    """With the variables that give it."""
    said = str(not_up("head:6379", ray.exceptions.AuthenticationError("no token")))
    assert "RAY_AUTH_TOKEN_PATH" in said


@pytest.mark.parametrize(
    ("err", "advice"),
    [
        (OSError(28, "No space left on device"), "Make room"),
        (PermissionError(13, "Permission denied"), "can be written"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /a"), "shorter folder"),
        (Exception("The current node timed out during startup."), "very busy"),
    ],
)
def test_a_local_start_that_fails_has_advice(err: Exception, advice: str) -> None:
    """By the error's number where it has one; the error itself is quoted."""
    said = str(not_up(LOCAL, err))
    assert said.startswith("Ray did not start on this machine: ")
    assert advice in said
    assert str(err).rstrip(".") in said
    assert ".." not in said
    assert "session_latest/logs" in said
