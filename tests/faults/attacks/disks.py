"""Nodes that do not see the disk of the driver: local paths are refused before anything is paid."""

from __future__ import annotations

import dataclasses
import json
import shutil

from ..harness import Bench, Job, Lost
from ..scenarios import fault
from ..separate import Node
from .machine import machines


@fault("nodes without a shared disk", "a node's own disk at the path of output, input or model")
def disks_not_shared(bench: Bench) -> Job:
    """Each of the three is refused with node and path; with shared folders the same nodes work."""
    with machines(bench, 1) as cluster:
        (node,) = cluster.machines
        own = dataclasses.replace(bench, folder=cluster.private)
        output = str(cluster.private / "out")
        refused = _refused(bench.job("own-output", output=output), node, output)
        refused = _refused(own.job("own-input", s3=True), node, "input file", str(cluster.private))
        model = shutil.copytree(bench.model, cluster.private / "model")
        refused = _refused(bench.job("own-model", model=str(model)), node, f"the model '{model}'")
        written = [path for path in node.machine.disk.rglob("*") if path.suffix == ".parquet"]
        if written:
            raise Lost(f"the node wrote to its own disk: {written}")
        job = bench.job("shared", rows=500)
        job.start().expect(0)
        job.check()
    return refused


def _refused(job: Job, node: Node, *words: str) -> Job:
    driver = job.start()
    driver.expect(2, f"node {node.ip} does not share", *words)
    if job.parts() or driver.workers():
        raise Lost(f"{job.name}: something was started")
    job.refused = job.tail().strip().splitlines()[-1]
    return job


@fault(
    "nodes without a shared disk", "a node dies, and the node in its place has only its own disk"
)
def disk_not_shared_later(bench: Bench) -> Job:
    """The new node answers nothing, writes nothing to its disk and is named in the report."""
    with machines(bench, 0) as cluster:
        _, second = (cluster.add_machine(shares=True) for _ in range(2))
        own = dataclasses.replace(bench, folder=cluster.private)
        job = own.job("later", rows=4000, args={"rows_per_second": 60})
        driver = job.start()
        driver.until_workers(2)
        driver.until_parts(4)
        cluster.kill_machine(second)
        late = cluster.add_machine()
        driver.expect(0, f"trouble on node {late.ip}", "does not share")
        written = [path for path in late.machine.disk.rglob("*") if path.suffix == ".parquet"]
        if written:
            raise Lost(f"the node wrote to its own disk: {written}")
        report = json.loads(job.store.read("_run/report.json"))
        if not any(late.ip in node["node"] for node in report["nodes"]):
            raise Lost(f"the report does not name {late.ip}: {report['nodes']}")
    return job
