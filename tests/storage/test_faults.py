"""Storage that fails: every operation is tried again until it is whole, or says why it gave up."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.errors import StorageError, StorageFullError
from gemma_batch.storage.formats import detect_format, reader_for
from gemma_batch.storage.fs import open_source, open_store
from gemma_batch.storage.listing import expand
from gemma_batch.storage.patience import QUICK_SECONDS, set_patience
from tests.faults.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.conftest import S3Server

KINDS = ("slow_down", "error", "reset", "cut", "latency")


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the server, through which all of our own calls go."""
    made = FaultProxy(s3.endpoint, seed=5)
    made.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    set_patience(30)
    yield made
    set_patience(QUICK_SECONDS)
    made.stop()


def test_without_faults_every_byte_passes(proxy: FaultProxy, s3: S3Server) -> None:
    """The proxy itself changes nothing, so that what the others see is the fault."""
    store = open_store(f"{s3.bucket('honest')}/x")
    data = bytes(range(256)) * 32_768  # 8 MiB
    assert store.create("big", data)
    assert not store.create("big", b"other")
    assert store.read("big") == data
    with open_source(f"{store.url}/big") as source:
        source.seek(5_000_001)
        assert source.read(70_000) == data[5_000_001:5_070_001]
    assert store.list() == ["big"]
    assert proxy.calls > 4
    assert not proxy.counts


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_survives(proxy: FaultProxy, s3: S3Server, kind: str) -> None:
    """One fault in three calls: right answers all the same, from every operation."""
    store = open_store(f"{s3.bucket('survive')}/{kind}")
    table = pa.table({"n": list(range(5000)), "text": [f"row {n}" for n in range(5000)]})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=500)
    lines = "".join(json.dumps({"n": n}) + "\n" for n in range(3000))
    proxy.set(latency_seconds=0.2, **{kind: 0.3})
    store.put("a.parquet", sink.getvalue())
    assert store.create("b.jsonl.gz", gzip.compress(lines.encode()))
    assert not store.create("b.jsonl.gz", b"")
    assert store.read("a.parquet") == sink.getvalue()
    assert store.etag("a.parquet")
    assert store.exists("a.parquet")
    assert store.list() == ["a.parquet", "b.jsonl.gz"]
    with store.open("a.parquet") as source:
        assert pq.read_table(source).equals(table)
    (file,) = expand([f"{store.url}/*.gz"])
    reader = reader_for(detect_format(file.url))
    spans = reader.index(file, max_rows=1000, max_bytes=2**20)
    rows = [row for span in spans for row in reader.read(file, span, ["n"])]
    assert [row.values for row in rows] == [{"n": n} for n in range(3000)]
    assert proxy.counts[kind] > 0, "the fault never happened"


@pytest.mark.parametrize("kind", ["timeout", "conflict", "lost_answer"])
def test_every_create_survives(proxy: FaultProxy, s3: S3Server, kind: str) -> None:
    """Refusals that AWS gives to a PUT: of each key there is one, and its maker knows that."""
    store = open_store(f"{s3.bucket('creates')}/{kind}")
    proxy.set(**{kind: 0.5})
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda n: store.create(f"{n}", b"%d" % n), range(20)))
        assert not any(pool.map(lambda n: store.create(f"{n}", b"other"), range(20)))
    assert [store.read(f"{n}") for n in range(20)] == [b"%d" % n for n in range(20)]
    assert proxy.counts[kind] > 0, "the fault never happened"


def test_a_body_cut_short_is_never_taken_for_the_whole(proxy: FaultProxy, s3: S3Server) -> None:
    """While every body is cut there is an error, never fewer bytes."""
    store = open_store(f"{s3.bucket('cut')}/x")
    store.put("a", b"0123456789" * 1000)
    proxy.set(cut=1.0)
    set_patience(1)
    with pytest.raises(StorageError):
        store.read("a")
    with open_source(f"{store.url}/a") as source, pytest.raises(StorageError):
        source.read(5000)
    assert proxy.counts["cut"] > 2


def test_exactly_one_of_many_creators_wins_though_answers_are_lost(
    proxy: FaultProxy, s3: S3Server
) -> None:
    """The commit: whoever made the object knows it, whatever became of the answer."""
    store = open_store(f"{s3.bucket('race')}/x")
    proxy.set(lost_answer=0.3, reset=0.1)
    for number in range(4):
        with ThreadPoolExecutor(20) as pool:
            won = list(pool.map(lambda n, k=number: store.create(f"{k}", b"%d" % n), range(20)))
        assert won.count(True) == 1
        assert store.read(f"{number}") == b"%d" % won.index(True)
    assert proxy.counts["lost_answer"] > 0


def test_an_outage_is_waited_out_by_many_at_once(proxy: FaultProxy, s3: S3Server) -> None:
    """Nobody gives up while patience lasts, and everything is there afterwards."""
    store = open_store(f"{s3.bucket('outage')}/x")
    store.put("a", b"here")
    proxy.outage(4)

    def work(number: int) -> bytes:
        assert store.create(f"made/{number}", b"%d" % number)
        assert "a" in store.list()
        return store.read("a")

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [b"here"] * 8
    assert time.monotonic() - started > 3
    assert len(store.list("made")) == 8


def test_giving_up_says_what_failed_and_for_how_long(proxy: FaultProxy, s3: S3Server) -> None:
    """One sentence with the object, the kind of failure and the time it was tried."""
    store = open_store(f"{s3.bucket('gone')}/x")
    set_patience(1)
    proxy.set(slow_down=1.0)
    with pytest.raises(StorageError, match=r"SlowDown 503 for 's3://gone/x/a' \(tried for \d s\)"):
        store.read("a")
    proxy.set(slow_down=0.0)
    proxy.outage(60)
    with pytest.raises(StorageError, match=r"cannot be reached .*tried for \d s"):
        store.put("a", b"")


@pytest.mark.parametrize(
    ("kind", "words", "error"),
    [("full", "is full", StorageFullError), ("skewed", "clock is off", StorageError)],
)
def test_what_waiting_does_not_mend_is_said_at_once(
    proxy: FaultProxy, s3: S3Server, kind: str, words: str, error: type[StorageError]
) -> None:
    """A store without room, a clock that is wrong: no minutes of retries."""
    store = open_store(f"{s3.bucket('at-once')}/{kind}")
    proxy.set(**{kind: 1.0})
    started = time.monotonic()
    with pytest.raises(StorageError, match=words) as caught:
        store.create("a", b"data")
    assert caught.type is error
    assert time.monotonic() - started < 30
    proxy.set(**{kind: 0.0})
    assert store.create("a", b"data")


def test_a_malformed_endpoint_is_not_printed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a password."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:pass word@:x")
    with pytest.raises(StorageError) as caught:
        open_store("s3://bucket/x").read("a")
    assert "pass" not in str(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_leaves_nothing_half(small_disk: Path) -> None:
    """Clear words at once; no half object, no temporary file; works again with room."""
    store = open_store(str(small_disk / "out"))
    assert store.create("results/one", b"x" * 600_000)
    started = time.monotonic()
    calls: list[Any] = [store.create, store.put]
    for call in calls:
        with pytest.raises(StorageFullError, match=r"disk of '.*two' is full.*make room"):
            call("results/two", b"y" * 600_000)
    assert time.monotonic() - started < 30
    assert store.list() == ["results/one"]
    assert not list((small_disk / "out" / "_run" / "tmp").iterdir())
    (small_disk / "out" / "results" / "one").unlink()
    assert store.create("results/two", b"y" * 600_000)
