"""The store: whole objects, create-only puts, no caches, no credentials in messages."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.errors import OutputError, StorageError
from gemma_batch.storage.fs import open_source, open_store
from gemma_batch.storage.patience import patient, with_retries

if TYPE_CHECKING:
    from tests.conftest import S3Server


def test_objects_come_back_as_they_were_put(place: str) -> None:
    """Put replaces, read gives the bytes, exists and etag speak of now."""
    store = open_store(place)
    assert not store.exists("results/a")
    store.put("results/a", b"one")
    first = store.etag("results/a")
    store.put("results/a", b"three")
    assert store.read("results/a") == b"three"
    assert store.exists("results/a")
    assert store.etag("results/a") != first
    with store.open("results/a") as file:
        file.seek(-3, os.SEEK_END)
        assert (file.read(), file.size) == (b"ree", 5)


def test_create_never_touches_what_exists(place: str) -> None:
    """The second create gets False and the first object stands."""
    store = open_store(place)
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert not store.create("x", b"first")
    assert store.read("x") == b"first"


@pytest.mark.parametrize("same", [True, False])
def test_of_32_creates_at_once_exactly_one_wins(place: str, same: bool) -> None:
    """The commit of a unit rests on this, even when all of them put the same bytes."""
    barrier = threading.Barrier(32)

    def create(i: int) -> bool:
        store = open_store(place)
        barrier.wait()
        return store.create("results/part", b"same" if same else b"%d" % i)

    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(create, range(32)))
    assert won.count(True) == 1
    found = open_store(place).read("results/part")
    assert found == (b"same" if same else b"%d" % won.index(True))


def test_list_is_recursive_sorted_fresh_and_of_folders(place: str) -> None:
    """A key that was put a moment ago is there; a sibling with the same start is not."""
    store = open_store(place)
    assert store.list("results") == []
    for key in ("results/b", "results/a/c", "results2/x", "top"):
        store.put(key, b"")
    assert store.list("results") == ["results/a/c", "results/b"]
    assert store.list("results/") == ["results/a/c", "results/b"]
    open_store(place).put("results/new", b"")
    assert store.list("results") == ["results/a/c", "results/b", "results/new"]
    assert store.list() == ["results/a/c", "results/b", "results/new", "results2/x", "top"]


def test_what_is_deleted_is_gone(place: str) -> None:
    """With its size before; nothing else goes, and a second time is no error."""
    store = open_store(place)
    store.put("a/b", b"123")
    store.put("a/c", b"")
    assert store.sizes("a") == {"a/b": 3, "a/c": 0}
    for _ in range(2):
        store.delete("a/b")
        assert store.sizes() == {"a/c": 0}
    store.delete("a/c")
    assert store.list() == []
    store.put("a/c", b"again")
    assert store.sizes() == {"a/c": 5}
    assert store.temporary() == {}


def test_a_writer_whose_temporary_file_was_removed_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start takes the file of a living writer for a leftover: the object is whole in the end."""
    store, kept = open_store(str(tmp_path / "out")), {"link": os.link, "replace": os.replace}
    taken: list[str] = []

    def late(name: str) -> Callable[[str, str], None]:
        def call(temp: str, path: str) -> None:
            if not taken:
                taken.extend(store.temporary())
                store.delete(taken[0])
            kept[name](temp, path)

        return call

    for name in kept:
        monkeypatch.setattr(os, name, late(name))
        assert store.create("a", b"one") if name == "link" else store.put("a", b"two") is None
        assert taken.pop().startswith("_run/tmp/")
    assert store.read("a") == b"two"


def test_more_keys_than_one_page_of_a_listing(s3: S3Server) -> None:
    """S3 lists a thousand keys at a time."""
    store = open_store(f"{s3.bucket('many')}/keys")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: store.put(f"results/{i:05d}", b""), range(1001)))
    assert len(store.list("results")) == 1001


def test_missing_objects_are_file_not_found(place: str) -> None:
    """Callers tell 'not there' from 'storage fails'."""
    store = open_store(place)
    for ask in (store.read, store.open, store.etag):
        with pytest.raises(FileNotFoundError):
            ask("nothing")


def test_a_store_travels_as_its_url(place: str) -> None:
    """Ray sends stores to workers."""
    store = open_store(place)
    store.put("x", b"1")
    assert len(pickle.dumps(store)) < 500
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    """Temporary files are gone after success and after a lost race."""
    store = open_store(str(tmp_path))
    store.put("a", b"1")
    store.create("a", b"2")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a"]


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://", "s3:///x"])
def test_unusable_locations_are_refused(url: str) -> None:
    """The message shows the location and what would do."""
    with pytest.raises(OutputError, match="s3://"):
        open_store(url)


def test_a_missing_bucket_is_named(s3: S3Server) -> None:
    """Reading, listing and writing all say which bucket, in one sentence."""
    store = open_store("s3://no-such-bucket-here/x")
    for ask in (lambda: store.put("a", b""), lambda: store.read("a"), lambda: store.list("a")):
        with pytest.raises(StorageError, match=r"bucket 'no-such-bucket-here' does not exist"):
            ask()
    with pytest.raises(StorageError, match="no-such-bucket-here"):
        store.create("a", b"")


def test_an_unreachable_endpoint_is_named_without_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing listens there: given up within seconds, with the host and no secret."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hidden@127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "visible-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "top-secret")
    started = time.monotonic()
    with pytest.raises(StorageError, match=rf"127.0.0.1:{port}\) cannot be reached") as caught:
        open_store("s3://bucket/x").put("a", b"")
    assert time.monotonic() - started < 60
    for secret in ("hidden", "visible-key", "top-secret"):
        assert secret not in str(caught.value)


def test_no_credentials_is_a_sentence(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says which variables to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    # An endpoint of its own, so that no client with credentials is reused.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"no credentials .* AWS_PROFILE"):
        open_store("s3://bucket/x").put("a", b"")


@pytest.mark.parametrize("status", ["500", "503", "error", "slow_down", "timeout", "conflict"])
def test_a_passing_error_is_retried(s3: S3Server, faults: list[str], status: str) -> None:
    """Two bad answers, then the object is there, and the create is ours."""
    store = open_store(f"{s3.bucket('faulty')}/{status}")
    faults += [status, status]
    assert store.create("a", b"1")
    assert faults == []
    assert not store.create("a", b"1")


def test_a_create_whose_answer_was_lost_is_still_ours(s3: S3Server, faults: list[str]) -> None:
    """The object got there, the answer did not: the retry finds our own object and says True."""
    store = open_store(f"{s3.bucket('faulty')}/lost")
    faults.append("lose the answer")
    assert store.create("a", b"mine")
    assert faults == []
    assert store.read("a") == b"mine"


def test_a_lost_answer_does_not_claim_what_others_put(s3: S3Server, faults: list[str]) -> None:
    """Somebody else was first: a retry after a lost answer finds other bytes and says False."""
    store = open_store(f"{s3.bucket('faulty')}/other")
    store.put("a", b"theirs")
    faults.append("lose the answer")
    assert not store.create("a", b"mine")
    assert store.read("a") == b"theirs"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("answer", ["conflict", "409"])
def test_a_conflict_of_two_creates_is_settled(
    s3: S3Server, faults: list[str], there: bool, answer: str
) -> None:
    """AWS says by its code that nothing is settled; after a bare 409 the object decides."""
    store = open_store(f"{s3.bucket('faulty')}/{answer}-{there}")
    if there:
        store.put("a", b"theirs")
    faults += [answer, answer]
    assert store.create("a", b"mine") is not there
    assert store.read("a") == (b"theirs" if there else b"mine")


def test_a_key_that_exists_is_told_as_aws_tells_it(s3: S3Server, faults: list[str]) -> None:
    """412 PreconditionFailed: no other attempt, the object stays."""
    store = open_store(f"{s3.bucket('faulty')}/exists")
    store.put("a", b"theirs")
    faults += ["exists", "500"]
    assert not store.create("a", b"mine")
    assert faults == ["500"]
    assert store.read("a") == b"theirs"


def test_what_will_not_pass_is_not_retried() -> None:
    """Only the type decides; the last error of a series comes out as it is."""
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise PermissionError("503 slow down")

    with pytest.raises(PermissionError):
        with_retries(refuse, base=0.001)
    assert len(calls) == 1


def test_what_may_pass_is_retried_for_as_long_as_patience_lasts() -> None:
    """Short while planning, long in a run; then the last error comes out as it is."""
    calls: list[float] = []

    def reset() -> None:
        calls.append(time.monotonic())
        raise ConnectionResetError

    for patience in (0.2, 1.0):
        calls.clear()
        with patient(0.1), patient(patience), pytest.raises(ConnectionResetError):
            with_retries(reset, base=0.01, cap=0.1)
        assert patience <= calls[-1] - calls[0] < patience + 5
        assert len(calls) > 1


def test_a_failure_that_lasts_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line when it has lasted for a while and one when it is over, not one per try."""
    monkeypatch.setattr("gemma_batch.storage.patience.TELL_AFTER", 0.5)
    over = time.monotonic() + 1.5

    def down() -> str:
        if time.monotonic() < over:
            raise ConnectionResetError("secret=abc")
        return "up"

    assert with_retries(down, what="'s3://b/k'", base=0.1, cap=0.2) == "up"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "'s3://b/k' does not answer (ConnectionResetError)" in said[0]
    assert "answers again" in said[1]
    assert "abc" not in "".join(said)


def test_a_read_notices_that_the_object_was_replaced(s3: S3Server) -> None:
    """Two halves of two versions never become one file."""
    store = open_store(f"{s3.bucket('places')}/replaced")
    store.put("a", b"a" * 100)
    with open_source(f"{store.url}/a") as source:
        assert source.read(10) == b"a" * 10
        store.put("a", b"b" * 100)
        with pytest.raises(StorageError, match="replaced"):
            source.read(10)
