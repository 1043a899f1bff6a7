"""A machine of the cluster is bad in one respect, and works in all others."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.hub_server import MODEL, hub_server

from ..harness import Bench, Job, Lost, Unavailable
from ..machines import refused
from ..proxy import FaultProxy
from ..scenarios import fault
from ..separate import SeparateCluster
from .engine import CPU

CUT_SECONDS = 30.0
CARD_LOST = "Xid 79: the GPU has fallen off the bus"


@contextlib.contextmanager
def machines(bench: Bench, count: int) -> Iterator[SeparateCluster]:
    """A cluster of so many machines, in the place of the cluster that drills share.

    These machines, and those that are added, reach the object store on `network.services`. Raises
    `Unavailable` where the kernel refuses namespaces.
    """
    if (why := refused()) is not None:
        raise Unavailable(f"this drill needs machines of its own: {why}")
    folder = Path(tempfile.mkdtemp(prefix="machines-", dir=bench.folder))
    cluster, shared = SeparateCluster(folder), bench.cluster
    store = FaultProxy(bench.proxy.endpoint, address=cluster.network.services)
    bench.cluster = cluster
    try:
        store.start()
        cluster.env["AWS_ENDPOINT_URL"] = store.endpoint
        for _ in range(count):
            cluster.add_machine()
        yield cluster
    finally:
        bench.cluster = shared
        cluster.close()
        store.stop()


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
        (board,) = driver.until(lambda: cluster.processes("ray::Board"), "a board")
        if cluster.node_of(board) is not None:
            raise Lost("the board runs on a node that may go away, not beside the driver")
        driver.expect(0, "trouble on node", bad.name, CARD_LOST)
    if bad.name in hosts(job) or len(hosts(job)) != 2:
        raise Lost(f"units were committed on {hosts(job)}")
    return job


@fault("bad machines", "of three, one never starts an engine, another loses the store for 30 s")
def bad_machines(bench: Bench) -> Job:
    """The run is slower for a while, and ends with every row."""
    with machines(bench, 3) as cluster:
        bad, cut, _ = cluster.machines
        args = {"fail_start_on": [bad.name], "fail_start_with": CARD_LOST, "rows_per_second": 25}
        job = bench.job(
            "bad-machines", s3=True, s3_input=True, args=args, resources={"replicas": 3}
        )
        driver = job.start()
        driver.until(lambda: cut.name in hosts(job), f"a part of {cut.name}")
        with cut.machine.cut(cluster.network.services):
            before = len(job.parts())
            begun = time.monotonic()
            driver.until(lambda: time.monotonic() - begun > CUT_SECONDS, "30 s without the store")
            if len(job.parts()) == before:
                raise Lost("nobody committed while one machine had no store")
        driver.expect(0, "trouble on node", bad.name, CARD_LOST)
    if bad.name in hosts(job):
        raise Lost(f"units were committed on {hosts(job)}")
    return job


@fault("a node loses the store", "the store does not answer one of three machines any more")
def store_unreachable(bench: Bench) -> Job:
    """The others commit its units, and read what it cannot read."""
    with machines(bench, 3) as cluster:
        cut = cluster.machines[0]
        job = bench.job(
            "no-store",
            s3=True,
            s3_input=True,
            args={"rows_per_second": 25},
            resources={"replicas": 3},
            policy={"storage_patience": 5},
        )
        driver = job.start()
        driver.until(lambda: cut.name in hosts(job), f"a part of {cut.name}")
        with cut.machine.cut(cluster.network.services):
            driver.expect(0, "trouble on node", cut.name)
    return job


@fault(
    "a node cannot reach the hub",
    "the hub refuses three calls of the driver, and never answers one of two machines",
    base="vllm",
)
def hub_unreachable(bench: Bench) -> Job:
    """The node that fetched the weights answers all rows; nobody asks for a tokenizer twice."""
    with machines(bench, 0) as cluster:
        services = cluster.network.services
        with hub_server(bench.model, services) as hub:
            hub.busy, hub.wait = 3, "1"
            bad = cluster.add_machine(env={"HF_ENDPOINT": f"http://{services}:9"})
            cluster.add_machine(env={"HF_ENDPOINT": hub.url})
            job = bench.job(
                "no-hub",
                rows=600,
                resources={**CPU, "replicas": 2},
                policy={"storage_patience": 10},
            )
            job.spec["model"] = MODEL
            job.path.write_text(yaml.safe_dump(job.spec))
            job.env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(job.folder / "hf")}
            driver = job.start()
            driver.expect(0, "trouble on node", bad.name)
            if (times := hub.gets("tokenizer.json")) > 2:
                raise Lost(f"the tokenizer was downloaded {times} times, by driver and one node")
    if bad.name in hosts(job):
        raise Lost(f"units were committed on {hosts(job)}")
    return job
