"""Processes die that sort the whole input before the run."""

from __future__ import annotations

from ..harness import Bench, Driver, Job, Lost
from ..scenarios import fault

READS, WRITES = "ReadToSort", "_write_piece"  # as Ray names the processes of the two stages


@fault("sort dies", "SIGKILL of a process that reads rows to sort, then of one that puts copies")
def sorter_killed(bench: Bench) -> Job:
    """Ray runs the task again: no row is sorted twice, none is left out, and no unit is blamed."""
    job = bench.job("sorter", s3=True, s3_input=True, resources={"sort": "always"})
    driver = job.start()
    _kill_one(bench, driver, READS, "GET .*-in/")
    _kill_one(bench, driver, WRITES, "PUT .*/sorted-")
    driver.expect(0, "rows sorted by prefix")
    return job


def _kill_one(bench: Bench, driver: Driver, name: str, request: str) -> None:
    """SIGKILL of a process of the stage while a request of its kind, made slow, is on its way."""
    bench.proxy.set(match=request, latency=1.0, latency_seconds=1.5)
    driver.strike(lambda: bench.cluster.processes(name), f"a process named {name}")
    bench.proxy.set(latency=0.0)
    if driver.job.store.exists("_run/manifest.json"):
        raise Lost("the sort was over before its process was killed")
