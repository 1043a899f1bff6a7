"""The pool grows to what the work and the cluster allow, and shrinks at the end."""

from __future__ import annotations

from ..harness import Bench, Job, Lost
from ..scenarios import fault

RATES = [25, 20]  # rows/s: every second engine is 20% slower
ENGINES = 4
TOGETHER = 0.05  # the share of the run within which all engines end


@fault(
    "autoscaling from 1 to 4 and back",
    "`replicas: {min: 1, max: 4}`; every second engine is 20% slower",
)
def pool_grows(bench: Bench) -> Job:
    """About 90 s of work for four engines, 360 s for one."""
    job = bench.job(
        "growing",
        rows=8000,
        args={"rows_per_second": RATES, "turns": str(bench.folder / "growing-turns")},
        resources={"replicas": {"min": 1, "max": ENGINES}, "max_num_seqs": 16},
        policy={"unit_rows": None, "unit_seconds": 12},  # a plan that expects 125 rows/s
    )
    driver = job.start()
    driver.until_workers(ENGINES)
    driver.until(lambda: 0 < len(driver.workers()) < ENGINES, "fewer workers")
    parts = len(job.parts())
    driver.expect(0)
    receipts = job.receipts
    if parts == len(receipts):
        raise Lost("the pool shrank only when the work was done")
    ends = {
        r["worker"]: max(o["finished"] for o in receipts if o["worker"] == r["worker"])
        for r in receipts
    }
    if len(ends) < ENGINES - 1:
        raise Lost(f"{len(ends)} engines did all of it")
    begin, first, last = receipts[0]["started"], min(ends.values()), max(ends.values())
    if last - first > TOGETHER * (last - begin):
        raise Lost(f"one engine ended {last - first:.1f} s of {last - begin:.0f} s before another")
    return job
