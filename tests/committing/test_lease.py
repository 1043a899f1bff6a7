"""The lease: one driver at a time, without comparing clocks, and never in the way of a restart."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.committing.lease import KEY, Lease, read_lease
from gemma_batch.errors import LeaseError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def test_a_living_holder_is_respected_and_named(store: Store) -> None:
    """The second driver sees the beat move and is refused."""
    first = Lease(store, beat=0.2, ttl=5)
    first.acquire()
    try:
        with pytest.raises(LeaseError, match="another driver is working on this output"):
            Lease(store, beat=0.2, ttl=5).acquire()
        assert not first.lost.is_set()
    finally:
        first.release()


def test_a_released_lease_is_free_at_once(store: Store) -> None:
    """A run that ended leaves no waiting time behind."""
    first = Lease(store)
    first.acquire()
    first.release()
    started = time.monotonic()
    second = Lease(store, ttl=30)
    second.acquire()
    second.release()
    assert time.monotonic() - started < 5


def test_a_killed_driver_of_this_machine_is_noticed_at_once(store: Store, tmp_path: Path) -> None:
    """After SIGKILL the next start does not wait for the time to live."""
    code = (
        "import sys, time; from gemma_batch.committing.lease import Lease; "
        "from gemma_batch.storage.fs import open_store; "
        "Lease(open_store(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, store.url], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    started = time.monotonic()
    lease = Lease(store, ttl=30)
    lease.acquire()
    lease.release()
    assert time.monotonic() - started < 5


HOLD = (
    "import sys, time; from gemma_batch.committing.lease import Lease; "
    "from gemma_batch.storage.fs import open_store; "
    "Lease(open_store(sys.argv[1]), beat=0.3).acquire(); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture(params=[("--mount-proc",), ()], ids=["own-proc", "host-proc"])
def neighbour(request: pytest.FixtureRequest, store: Store) -> Iterator[subprocess.Popen[str]]:
    """A living driver in another pid namespace of this host, as in a second container."""
    apart = ["unshare", "--pid", "--fork", "--kill-child", *request.param]
    tried = subprocess.run([*apart, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"the kernel gives no pid namespace here: {tried.stderr.strip()}")
    command = [*apart, sys.executable, "-c", HOLD, store.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_living_driver_of_a_neighbouring_container_keeps_its_lease(
    store: Store, neighbour: subprocess.Popen[str]
) -> None:
    """Same host name, same boot, and its process id means nothing here: it is watched."""
    record = read_lease(store) or {}
    assert record["host"] == socket.gethostname()
    with pytest.raises(LeaseError, match="another driver is working on this output"):
        Lease(store, beat=0.3, ttl=10).acquire()
    assert neighbour.poll() is None
    assert (read_lease(store) or {})["owner"] == record["owner"]


@pytest.mark.parametrize("changes", [{"pid_space": None}, {"pid_space": ""}, {"boot": "other"}])
def test_a_record_that_does_not_say_enough_is_watched(
    store: Store, changes: dict[str, Any]
) -> None:
    """As older versions wrote it: not taken over before the time to live, though the id is free."""
    lease = Lease(store)
    lease.acquire()
    lease.release()
    record = {**(read_lease(store) or {}), "released": False, "pid": 2**22 + 1, **changes}
    store.put(KEY, json.dumps({k: v for k, v in record.items() if v is not None}).encode())
    started = time.monotonic()
    again = Lease(store, beat=0.2, ttl=1.0)
    again.acquire()
    again.release()
    assert time.monotonic() - started >= 1.0


def test_another_process_with_the_same_id_is_not_the_holder(store: Store) -> None:
    """The id was given out again since: the start of the process tells, in no clock's time."""
    lease = Lease(store)
    lease.acquire()
    lease.release()
    record = read_lease(store) or {}
    old = {**record, "released": False, "started_ticks": record["started_ticks"] - 1}
    store.put(KEY, json.dumps(old).encode())
    started = time.monotonic()
    again = Lease(store, ttl=30)
    again.acquire()
    again.release()
    assert time.monotonic() - started < 5


def test_a_silent_holder_elsewhere_is_taken_over_after_the_time_to_live(store: Store) -> None:
    """Its beat stands still by our own clock; what its clock said does not matter."""
    record = {"owner": "x", "host": "elsewhere", "pid": 1, "beat": 7, "time": "2099-01-01"}
    store.put(KEY, json.dumps(record).encode())
    said: list[str] = []
    started = time.monotonic()
    lease = Lease(store, beat=0.2, ttl=1.0)
    lease.acquire(say=said.append)
    lease.release()
    assert 1.0 <= time.monotonic() - started < 5
    assert "'elsewhere'" in said[0]


def test_the_loser_of_a_takeover_is_told(store: Store) -> None:
    """A driver whose lease was taken stops instead of paying twice."""
    told = threading.Event()
    first = Lease(store, beat=0.1, on_lost=lambda by: told.set())
    first.acquire()
    store.put(KEY, json.dumps({"owner": "thief", "host": "elsewhere", "pid": 1}).encode())
    assert told.wait(5)
    assert first.lost.is_set()
    first.release()
    assert (read_lease(store) or {})["owner"] == "thief", "the thief's lease was overwritten"


def test_of_many_that_start_at_once_one_works(store: Store) -> None:
    """Concurrent starts: exactly one acquires, the others are refused."""
    won: list[Lease] = []
    refused: list[LeaseError] = []

    def start() -> None:
        lease = Lease(store, beat=0.2, ttl=3)
        try:
            lease.acquire()
            won.append(lease)
        except LeaseError as err:
            refused.append(err)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 5)
    won[0].release()
