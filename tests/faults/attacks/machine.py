"""A machine of the cluster is bad in one respect, and works in all others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..harness import Bench, Job, Lost
from ..machines import refused
from ..scenarios import fault
from ..separate import SeparateCluster

CARD_LOST = "Xid 79: the GPU has fallen off the bus"


@contextlib.contextmanager
def machines(bench: Bench, count: int) -> Iterator[SeparateCluster]:
    """A cluster of so many machines, in the place of the cluster that drills share."""
    if (why := refused()) is not None:
        raise RuntimeError(f"this drill needs machines of its own: {why}")
    folder = bench.folder / f"machines-{len(bench.jobs):02d}"
    cluster, shared = SeparateCluster(folder, env={}), bench.cluster
    bench.cluster = cluster
    try:
        for _ in range(count):
            cluster.add_machine()
        yield cluster
    finally:
        bench.cluster = shared
        cluster.close()


def hosts(job: Job) -> set[str]:
    """The host names of the workers that committed units."""
    return {receipt["worker"].rpartition("-")[0] for receipt in job.receipts}


@fault("a GPU never starts", "an engine cannot be started on one of three machines, for good")
def gpu_never_starts(bench: Bench) -> Job:
    """The other machines do its units, and the report names it."""
    with machines(bench, 3) as cluster:
        bad = cluster.machines[0]
        args = {"fail_start_on": [bad.name], "fail_start_with": CARD_LOST, "rows_per_second": 60}
        job = bench.job("never-starts", args=args, resources={"replicas": 3})
        driver = job.start()
        driver.expect(0, "trouble on node", bad.name, CARD_LOST)
    if bad.name in hosts(job) or len(hosts(job)) != 2:
        raise Lost(f"units were committed on {hosts(job)}")
    return job
