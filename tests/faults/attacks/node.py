"""Nodes go away with everything on them, and new ones join."""

from __future__ import annotations

import subprocess

from ..harness import Bench, Job
from ..scenarios import fault


@fault("node dies", "raylet and workers killed; a node joins and is used")
def node_killed(bench: Bench) -> Job:
    """First one node goes, then, when a new one is there, the other old one."""
    cluster = bench.cluster
    # Slow enough that one worker has work left until a node has joined, on a busy machine too.
    job = bench.job("node", rows=6000, args={"rows_per_second": 90})
    driver = job.start()
    driver.until_parts(4)

    def nodes() -> list[subprocess.Popen[bytes]]:
        found = [cluster.node_of(worker) for worker in driver.workers()]
        return [node for node in found if node is not None]

    cluster.kill_node(driver.until(nodes, "a worker on a node, not on the head")[0])
    driver.until_parts(2)
    joined = cluster.add_node()
    for old in cluster.nodes:
        if old is not joined:
            cluster.kill_node(old)
    driver.until_parts(2)
    driver.until(lambda: joined in nodes(), "the new node is used")
    cluster.add_node()
    driver.expect(0)
    return job
