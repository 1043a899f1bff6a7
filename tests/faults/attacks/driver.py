"""The driver dies, is asked to stop, or is there twice; also in a retry."""

from __future__ import annotations

import signal
import time

from ..harness import Bench, Job, Lost
from ..scenarios import fault

GRACE = 15.0  # seconds that a stop may take; Kubernetes gives 30, `ray job stop` 3 by default


@fault("driver dies", "SIGKILL at a random moment of the run, started again")
def driver_killed(bench: Bench) -> Job:
    """A new start redoes the units in flight and nothing else."""
    job = bench.job("driver-killed")
    driver = job.start()
    driver.until_parts(bench.chance.randint(1, 25))
    driver.kill()
    job.finish()
    return job


@fault("driver dies", "SIGKILL twice in a row, the second while it resumes")
def driver_killed_twice(bench: Bench) -> Job:
    """The second death comes while the resumed run is still coming up."""
    job = bench.job("driver-killed-twice")
    driver = job.start()
    driver.until_parts(bench.chance.randint(1, 15))
    driver.kill()
    driver = job.start()
    time.sleep(bench.chance.uniform(1, 6))
    driver.kill()
    job.finish()
    return job


@fault("driver dies", "SIGKILL during planning")
def driver_killed_planning(bench: Bench) -> Job:
    """Nothing is there yet, so nothing can be half there."""
    job = bench.job("driver-planning")
    driver = job.start()
    time.sleep(bench.chance.uniform(0.5, 3))
    driver.kill()
    job.finish()
    return job


@fault("driver dies", "SIGKILL between the list of units and the manifest")
def driver_killed_manifest(bench: Bench) -> Job:
    """The list of units that the dead driver left behind is the one that counts."""
    job = bench.job("driver-manifest", rows=1000, shards=100)
    driver = job.start()
    run = job.folder / "out" / "_run"
    driver.until(lambda: list(run.glob("units-*")), "units were written")
    driver.kill()
    job.finish()
    return job


@fault("driver dies", "SIGKILL between the last commit and the report")
def driver_killed_at_end(bench: Bench) -> Job:
    """Everything is committed; the next start only writes the report."""
    job = bench.job("driver-end", rows=1000)
    driver = job.start()
    driver.until_parts(1000 // 50)
    driver.kill()
    job.finish()
    return job


@fault("stop asked for", "SIGTERM (`ray job stop`, a preempted pod), then Ctrl-C, resumed")
def stopped(bench: Bench) -> Job:
    """Exit code 130 within the grace time, the lease is free, and a later start goes on."""
    # Slow enough that there is work left when each of the two stops comes.
    job = bench.job("stopped", args={"rows_per_second": 100})
    for number in (signal.SIGTERM, signal.SIGINT):
        driver = job.start()
        driver.until_parts(3)
        asked = time.monotonic()
        driver.send(number)
        code = driver.wait(60)
        if code != 130 or time.monotonic() - asked > GRACE:
            raise Lost(f"{number.name}: exit code {code} after {time.monotonic() - asked:.1f} s")
    job.finish()
    return job


@fault("two drivers", "started at the same time")
def two_drivers(bench: Bench) -> Job:
    """One is refused with exit code 4, whoever is first; the data is the same."""
    # Slow enough that the second one has started before the first has done all.
    job = bench.job("two-drivers", args={"rows_per_second": 100})
    drivers = [job.start(), job.start()]
    codes = sorted(driver.wait() for driver in drivers)
    if codes != [0, 4]:
        raise Lost(f"exit codes {codes}, not one 0 and one 4: {job.tail()}")
    return job


@fault("two drivers", "the lease goes stale: the first is frozen, replaced, and wakes up again")
def stale_lease(bench: Bench) -> Job:
    """Both have engines for a while; parts are create-only, so no row is there twice."""
    job = bench.job("stale-lease", rows=4000, args={"rows_per_second": 200})
    first = job.start()
    first.until_parts(2)
    first.send(signal.SIGSTOP)
    second = job.start()
    holder = (job.folder / "out" / "_run" / "lease.json").read_text
    second.until(lambda: f'"pid": {second.process.pid},' in holder(), "it took the lease over")
    # The first one's engines have gone on meanwhile; it finds the lease lost when it wakes up.
    first.send(signal.SIGCONT)
    codes = [first.wait(), second.wait()]
    if codes != [4, 0]:
        raise Lost(f"exit codes {codes}, not 4 for the woken one and 0: {job.tail()}")
    return job


@fault("retry", "killed in the middle, run again, while parts of generation 0 exist")
def retry_killed(bench: Bench) -> Job:
    """Every generation together holds each row once."""
    job = bench.job("retry")
    driver = job.start()
    manifest = job.folder / "out" / "_run" / "manifest.json"
    driver.until(manifest.exists, "the manifest was written")
    shard, away = job.folder / "in" / "s3.parquet", job.folder / "away"
    shard.rename(away)
    driver.expect(3)
    failed = len(job.rows("errors"))
    away.rename(shard)
    again = ("retry", job.output, "--set", "resources.replicas=1")
    driver = job.start(*again)
    driver.until_parts(1)
    driver.kill()
    for _ in range(2):  # goes on with the same generation; then there is nothing left
        job.start(*again).expect(0)
    if not failed or len(job.rows("errors")):
        raise Lost(f"{failed} rows failed at first, {len(job.rows('errors'))} in the end")
    return job
