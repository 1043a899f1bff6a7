"""Nodes go away with everything on them, and new ones join."""

from __future__ import annotations

from ..harness import Bench, Job, Lost
from ..scenarios import fault


@fault("node dies", "raylet and workers killed; a node joins and is used")
def node_killed(bench: Bench) -> Job:
    """First one node goes, then, when a new one is there, the other old one."""
    cluster = bench.cluster
    job = bench.job("node", rows=6000, args={"rows_per_second": 150})
    driver = job.start()
    driver.until_parts(4)
    first = cluster.node_of(driver.until_workers()[0])
    if first is None:
        raise Lost("the worker runs on the head, which has no room for it")
    cluster.kill_node(first)
    driver.until_parts(2)
    joined = cluster.add_node()
    for old in cluster.nodes:
        if old is not joined:
            cluster.kill_node(old)
    driver.until_parts(2)
    if not any(cluster.node_of(worker) is joined for worker in cluster.workers()):
        raise Lost("the new node is not used")
    cluster.add_node()
    driver.expect(0)
    return job
