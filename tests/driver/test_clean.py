"""Clean: what starts that died left behind goes, and nothing that any run still reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.cli.commands import main
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.lease import Lease
from gemma_batch.committing.manifest import Manifest, create_manifest, fingerprint
from gemma_batch.driver.clean import clean, sweep
from gemma_batch.errors import LeaseError, OutputError
from gemma_batch.reporting.progress import LogProgress
from gemma_batch.rows import Failure, Outcome
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit
from tests.committing.test_commit import answer, job
from tests.committing.test_commit import prepared as prepared
from tests.faults.proxy import FaultProxy
from tests.storage.conftest import place as place

if TYPE_CHECKING:
    from tests.conftest import S3Server

DIE = (
    "import os, sys, signal; from gemma_batch.storage.fs import open_store; "
    "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
    "open_store(sys.argv[1]).put('_run/report.json', b'x' * 3000)"
)


def copy(store: Store, number: int) -> Shard:
    """A sorted copy, as a sort puts it."""
    key = f"_run/sorted-0123456789abcdef/{uuid.uuid4().hex}.parquet"
    store.put(key, b"copy %d" % number)
    url = f"{store.url}/{key}"
    return Shard(number=FIRST_STAGED + number, url=url, size=6, etag="e", format="staged")


def key(store: Store, shard: Shard) -> str:
    return shard.url.removeprefix(f"{store.url}/")


def unit(shard: Shard) -> Unit:
    return Unit(shard=shard.number, first_row=0, rows=3, mark=0, bytes=9, route="all", expected=3)


def planned(store: Store, staged: list[Shard]) -> Manifest:
    shards = [Shard(number=0, url="s3://in/0", size=10, etag="e", format="csv")]
    return create_manifest(
        store,
        name="n",
        fingerprint=fingerprint({}, shards),
        shards=shards,
        units=[unit(shard) for shard in staged],
        spec={},
        facts={},
        staged=staged,
    )


def commit(store: Store, prepared: Prepared, shard: Shard, outcomes: dict[int, Outcome]) -> None:
    mine = replace(prepared, unit=unit(shard))
    commit_unit(store, job(), mine, outcomes, {})


GOOD: dict[int, Outcome] = {n: answer("a") for n in range(3)}
BAD: dict[int, Outcome] = {**GOOD, 1: Failure("deadline", "late")}


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["clean", *arguments])
    return int(ended.value.code or 0)


def test_a_start_removes_what_dead_starts_left(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copies and lists of units that the manifest does not name; it says how much."""
    store = open_store(place)
    orphan, mine = copy(store, 0), copy(store, 0)
    store.put("_run/units-0000000000000000.parquet", b"another plan's")
    manifest = planned(store, [mine])
    before = set(store.list())
    sweep(store, manifest, LogProgress(10))
    gone = {key(store, orphan), "_run/units-0000000000000000.parquet"}
    assert before - set(store.list()) == gone
    assert manifest.units(store) == [unit(mine)]
    assert "removed 2 file(s) of starts that died (20 bytes)" in capsys.readouterr().err
    sweep(store, manifest, LogProgress(10))
    assert capsys.readouterr().err == ""


def test_a_temporary_file_of_a_killed_process_goes(tmp_path: Path) -> None:
    """SIGKILL between the writing of a file and its name."""
    store = open_store(str(tmp_path / "out"))
    manifest = planned(store, [copy(store, 0)])
    ended = subprocess.run([sys.executable, "-c", DIE, store.url], check=False)
    assert ended.returncode == -signal.SIGKILL
    ((name, size),) = store.temporary().items()
    assert (name.startswith("_run/tmp/"), size) == (True, 3000)
    sweep(store, manifest, LogProgress(10))
    assert store.temporary() == {}


def test_a_start_that_may_not_delete_goes_on(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The policy in `infra/aws` lets no job delete: it says so, and the files stay."""
    proxy = FaultProxy(s3.endpoint)
    proxy.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(f"{s3.bucket('kept')}/out")
        orphan = copy(store, 0)
        proxy.set(match="^DELETE", denied=1.0)
        sweep(store, planned(store, [copy(store, 0)]), LogProgress(10))
        said = capsys.readouterr().err
        assert "left where they are: no permission for" in said
        assert proxy.counts["denied"] == 1
        assert store.exists(key(store, orphan))
    finally:
        proxy.stop()


def test_clean_lists_first_and_removes_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no start came as far as a manifest; `--json` has the same facts."""
    store = open_store(str(tmp_path / "out"))
    orphan = copy(store, 0)
    assert command(store.url) == 0
    said = capsys.readouterr().err
    assert f"6 bytes  sorted copy  {key(store, orphan)}" in said
    assert "nothing was removed: repeat the command with --yes" in said
    assert store.exists(key(store, orphan))

    assert command(store.url, "--yes", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["removed"] is True
    assert facts["files"] == [{"key": key(store, orphan), "bytes": 6, "kind": "sorted copy"}]
    assert store.list() == ["_run/lease.json"]
    assert not (tmp_path / "out/_run/sorted-0123456789abcdef").exists()


def test_clean_refuses_while_a_driver_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4 and nothing removed; the list says who holds the lease."""
    store = open_store(str(tmp_path / "out"))
    orphan = copy(store, 0)
    lease = Lease(store, beat=0.1)
    lease.acquire()
    try:
        assert command(store.url, "--yes") == LeaseError.exit_code
        assert "another driver is working on this output" in capsys.readouterr().err
        assert command(store.url) == 0
        assert f"process {os.getpid()} on" in capsys.readouterr().err
    finally:
        lease.release()
    assert store.exists(key(store, orphan))


def test_clean_keeps_the_copies_that_a_retry_reads(
    place: str, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a finished run those go whose rows all have answers; the rest only when asked for."""
    store = open_store(place)
    answered, failed = copy(store, 0), copy(store, 1)
    planned(store, [answered, failed])
    commit(store, prepared, answered, GOOD)
    assert clean(place, dry_run=True).files == [], "the run is not finished"
    with pytest.raises(OutputError, match=r"not finished \(1 units are missing\)"):
        clean(place, all_copies=True)

    commit(store, prepared, failed, BAD)
    found = clean(place)
    assert [one.key for one in found.files] == [key(store, answered)]
    assert [one.key for one in found.kept] == [key(store, failed)]
    assert [store.exists(key(store, one)) for one in (answered, failed)] == [False, True]

    assert command(place) == 0
    assert "--all-copies takes them too, and ends all retries" in capsys.readouterr().err
    assert command(place, "--all-copies", "--yes") == 0
    assert not store.exists(key(store, failed))


def test_clean_says_where_there_is_nothing(tmp_path: Path) -> None:
    """A path without a run is most often a slip of the pen."""
    with pytest.raises(OutputError, match="nothing to clean"):
        clean(str(tmp_path))


def test_tries_stay_until_they_are_named(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Their lists of units are no leftovers; `--tries` takes all of their files, and no others."""
    store = open_store(place)
    planned(store, [])
    mine = [f"_run/tries/{name}" for name in ("a-200-0/results/p.parquet", "b-9-1/_run/units-1")]
    for path in mine:
        store.put(path, b"xx")
    before = set(store.list("")) - set(mine)
    found = clean(place)
    assert found.files == []
    assert sorted(one.key for one in found.kept) == sorted(mine)
    lease = Lease(open_store(f"{place}/_run/tries/a-200-0"))
    lease.acquire()
    try:
        with pytest.raises(SystemExit) as ended:
            main(["clean", place, "--tries"])
        assert ended.value.code == 0
        assert "repeat the command with --yes" in capsys.readouterr().err
    finally:
        lease.release()
    assert {one.kind for one in clean(place, tries=True).files} == {"try"}
    assert set(store.list("")) - {"_run/lease.json"} == before - {"_run/lease.json"}
