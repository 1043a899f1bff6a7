"""The object store fails in every way it can, and disks run full."""

from __future__ import annotations

import subprocess
import time

from ..harness import Bench, Job, Lost
from ..scenarios import fault

FIVE = 0.05


@fault(
    "storage",
    "503 SlowDown, 500, connection reset, read cut short, latency of 2 s: on 5% of calls each",
)
def storage_flaky(bench: Bench) -> Job:
    """Input and output both; every call is tried again until it is whole."""
    job = bench.job("storage-flaky", rows=1000, s3=True, s3_input=True)
    kinds = ("slow_down", "error", "reset", "cut", "latency")
    before = dict(bench.proxy.counts)
    bench.proxy.set(latency_seconds=2.0, **dict.fromkeys(kinds, FIVE))
    try:
        job.start().expect(0)
    finally:
        bench.proxy.set(**dict.fromkeys(kinds, 0.0))
    quiet = [kind for kind in kinds if bench.proxy.counts[kind] == before.get(kind, 0)]
    if quiet:
        raise Lost(f"{quiet} never happened")
    return job


@fault("storage", "all calls failing for 60 s")
def storage_outage(bench: Bench) -> Job:
    """Everybody waits, nobody gives up."""
    job = bench.job("storage-outage", s3=True, s3_input=True)
    driver = job.start()
    driver.until_parts(5)
    bench.proxy.outage(60)
    driver.expect(0)
    return job


@fault("storage", "puts that succeed while their answer is lost (30%)")
def storage_lost_answer(bench: Bench) -> Job:
    """A part that is there already is recognised as one's own."""
    job = bench.job("storage-lost", s3=True)
    bench.proxy.set(lost_answer=0.3)
    try:
        job.start().expect(0)
    finally:
        bench.proxy.set(lost_answer=0.0)
    return job


@fault("storage", "409 ConditionalRequestConflict while putting (30% of the conditional puts)")
def storage_conflict(bench: Bench) -> Job:
    """Nothing is settled by it: the put is tried again, and one of all writers wins."""
    job, before = bench.job("storage-conflict", s3=True), bench.proxy.counts["conflict"]
    bench.proxy.set(conflict=0.3)
    try:
        job.start().expect(0)
    finally:
        bench.proxy.set(conflict=0.0)
    if bench.proxy.counts["conflict"] == before:
        raise Lost("no put was refused")
    return job


@fault("credentials expire", "every call is refused, until a `credential_process` gives new ones")
def credentials_renewed(bench: Bench) -> Job:
    """Driver, readers and GPU actors wait for them, and take them when they are there."""
    job, before = bench.job("credentials", s3=True, s3_input=True), bench.proxy.counts["expired"]
    driver = job.start()
    driver.until_parts(5)
    bench.proxy.expired.add(bench.tokens.now)
    driver.until(lambda: bench.proxy.counts["expired"] > before, "a call was refused")
    time.sleep(3)
    if driver.process.poll() is not None:
        raise Lost(f"nobody waited: {job.tail()}")
    bench.tokens.give(f"{bench.tokens.now}-renewed")
    driver.expect(0)
    return job


@fault("storage full", "the object store has no room, then has again")
def store_full(bench: Bench) -> Job:
    """A clear end, nothing corrupt, and the next start goes on."""
    job = bench.job("store-full", s3=True)
    driver = job.start()
    driver.until_parts(5)
    bench.proxy.set(full=1.0)
    try:
        driver.expect(1, "full")
    finally:
        bench.proxy.set(full=0.0)
    job.finish()
    return job


@fault("storage full", "the disk of the output has no room, then has again")
def disk_full(bench: Bench) -> Job:
    """The same on a local file system of 160 KiB."""
    folder = bench.folder / "small-disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder))
    bench.later.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
    job = bench.job("disk-full", output=str(folder / "out"))
    job.start().expect(1, "full")
    _mount("-o", "remount,size=64m", str(folder))
    job.finish()
    return job


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
