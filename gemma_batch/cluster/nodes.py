"""The hardware of the connected cluster (driver; `_query_gpu` is a Ray task on a GPU node)."""

from __future__ import annotations

import subprocess

import ray

from gemma_batch.family.gpus import GPU, gpu_from_device
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.pool import spare_cpus


def cluster_hardware() -> Hardware:
    """The hardware of the connected cluster, as Ray knows it.

    nvidia-smi on one node tells the name, memory and generation of a GPU. All other GPUs are taken
    to be like this GPU.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0))
    per_node = int(max((node["Resources"].get("GPU", 0) for node in nodes), default=0))
    cpus = [node["Resources"].get("CPU", 0) for node in nodes]
    memory = min((node["Resources"].get("memory", 8 * 2**30) for node in nodes), default=0)
    spare = [
        spare_cpus(node["Resources"].get("CPU", 0), node["Resources"]["GPU"])
        for node in nodes
        if node["Resources"].get("GPU", 0) > 0
    ]
    gpu: GPU | None = None
    if gpus:
        name, mib, capability = ray.get(
            ray.remote(_query_gpu).options(num_gpus=0.01, num_cpus=0).remote()
        )
        gpu = gpu_from_device(name, memory_mib=mib, compute_capability=capability)
    return Hardware(
        gpu=gpu,
        gpus=gpus,
        gpus_per_node=per_node,
        cpus=max(1, int(total.get("CPU", 1))),
        cpus_per_node=max(1, int(min(filter(None, cpus), default=1))),
        memory_gib=memory / 2**30,
        spare_cpus_per_gpu=min(spare, default=0.0),
    )


def _query_gpu() -> tuple[str, int, float]:
    answer = subprocess.run(
        [
            "nvidia-smi",
            "--query-gpu=name,memory.total,compute_cap",
            "--format=csv,noheader,nounits",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[0]
    name, mib, capability = (part.strip() for part in answer.split(","))
    return name, int(mib), float(capability)
