"""A cluster without a GPU whose autoscaler may add nodes with one: Ray's own, real raylets.

Its nodes have no card; an nvidia-smi of the test's making says otherwise.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.cluster import RAY, end, family, free_port
from tests.integration.helpers import environment

pytestmark = pytest.mark.long
GROUP_MAX, ENGINES, ROWS = 5, 3, 2500


def _config(port: int) -> dict[str, Any]:
    from ray._private.services import get_node_ip_address
    from ray.autoscaler._private.fake_multi_node import node_provider as fake

    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands",
             "setup_commands", "head_setup_commands", "worker_setup_commands",
             "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip
    sizes = {"object_store_memory": 80_000_000}
    return {
        "cluster_name": "fake",
        "max_workers": 8,
        "provider": {
            "type": "fake_multinode",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "head_node_id": fake.FAKE_HEAD_NODE_ID,
            "gcs_address": f"{get_node_ip_address()}:{port}",
        },
        "head_node_type": fake.FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            fake.FAKE_HEAD_NODE_TYPE: {
                "resources": {"CPU": 2},
                "node_config": {},
                "max_workers": 0,
            },
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1, **sizes},
                "node_config": {},
                "min_workers": 0,
                "max_workers": GROUP_MAX,
            },
        },
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists},
    }


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of the head; nodes come when something asks for them."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text('#!/bin/sh\necho "NVIDIA L4, 23034, 8.9, 580.95.05, [N/A]"\n')
    smi.chmod(0o755)
    session, port = tempfile.mkdtemp(prefix="gb"), free_port()
    (tmp_path / "config.json").write_text(json.dumps(_config(port)))
    command = [RAY, "start", "--block", "--head", f"--port={port}", "--num-cpus=2",
               "--disable-usage-stats", "--include-dashboard=false", f"--temp-dir={session}",
               f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000",
               f"--autoscaling-config={tmp_path / 'config.json'}"]  # fmt: skip
    env = environment(
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_FAKE_CLUSTER="1",
        PATH=f"{smi.parent}:{os.environ['PATH']}",
    )
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        end(family(head.pid))
        head.wait()
        # Nodes that the autoscaler started lead sessions of their own.
        end([p for p in psutil.process_iter(["cmdline"])
             if session in " ".join(p.info["cmdline"] or [])])  # fmt: skip
        shutil.rmtree(session, ignore_errors=True)


def _drive(address: str, folder: str, model: str) -> dict[str, Any]:
    import ray

    from gemma_batch.cluster import membership, nodes, run_actors
    from gemma_batch.cluster.autoscaler import can_add_nodes
    from gemma_batch.cluster.pipeline import RouteRun
    from gemma_batch.family.hardware import Hardware
    from gemma_batch.planning.plan import make_plan
    from gemma_batch.planning.pool import GpuWish, Pool
    from gemma_batch.spec import JobSpec

    found: dict[str, Any] = {"said": []}
    deadline = time.monotonic() + 120
    while True:  # until the head is up and its autoscaler has reported
        try:
            membership.connect(address)
            if can_add_nodes():
                break
        except Exception as err:
            found["last"] = str(err)
        assert time.monotonic() < deadline, found
        time.sleep(1)
    membership.configure()
    wish = GpuWish(wanted=True, needed=True, gpus=1, seconds=120)
    hardware = nodes.cluster_hardware(wish, found["said"].append)
    found["hardware"] = hardware.describe()

    class Program:
        def answer(self) -> int:
            return 42

    hog = ray.remote(Program).options(num_gpus=1, num_cpus=0, name="training").remote()
    ray.get(hog.answer.remote())
    deadline = time.monotonic() + 30
    while ray.available_resources().get("GPU", 0) and time.monotonic() < deadline:
        time.sleep(0.2)
    nodes.say_who_holds_gpus(1, found["said"].append)
    busy = nodes.cluster_hardware(GpuWish(wanted=True), found["said"].append)
    found["busy"] = busy.describe()
    ray.kill(hog)

    spec = JobSpec.from_dict(
        {
            "name": "growing",
            "input": {"path": f"{folder}/in.parquet", "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": model,
            "sampling": {"max_tokens": 4},
            "output": {"path": f"{folder}/out"},
            "resources": {
                "engine": "echo",
                "max_num_seqs": 16,
                "engine_args": {"rows_per_second": 25},
            },
        }
    )
    plan = make_plan(spec).placed(Hardware(gpu=None))
    pool = Pool(least=1, most=ENGINES, num_gpus=1, num_cpus=0)
    run = RouteRun(
        plan.job(plan.routes[0]),
        plan.survey.shards,
        plan.units(ENGINES),
        pool,
        run_actors.make_board(),
    )
    workers, most = set(), 0
    for receipt in run.receipts():
        workers.add(receipt["worker"])
        most = max(most, sum(n["Alive"] and "GPU" in n["Resources"] for n in ray.nodes()))
    ray.shutdown()
    return {**found, "workers": len(workers), "gpu_nodes": most}


def test_the_run_waits_for_a_gpu_node_and_the_pool_brings_the_others(
    address: str, tmp_path: Path, model: str
) -> None:
    """From none to one for the plan, from one to three for the work, and not to five."""
    table = pa.table({"id": list(range(ROWS)), "doc": ["the quick brown fox"] * ROWS})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=50)
    with multiprocessing.get_context("spawn").Pool(1) as process:
        found = process.apply(_drive, (address, str(tmp_path), model))
    assert found["said"][0].startswith("the cluster has no node with 1 GPU yet: waiting for its")
    assert found["hardware"] == found["busy"] == "1 x L4 on 1 node"
    (held,) = [text for text in found["said"] if text.startswith("waiting for GPUs: 0 of 1")]
    assert "'training' of job" in held
    assert found["workers"] == found["gpu_nodes"] == ENGINES
