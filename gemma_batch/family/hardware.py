"""Hardware: the GPUs and CPUs of a cluster, as plain data. `cluster/` reads the data from Ray."""

from __future__ import annotations

from dataclasses import dataclass

from gemma_batch.family.gpus import GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The hardware that engines can run on.

    `gpu` None means that the cluster has only CPUs. `gpus` and `cpus` count the whole cluster.
    `gpus_per_node` counts the GPUs of the node with the most GPUs, `cpus_per_node` the CPUs of the
    node with the fewest CPUs. `memory_gib` is the memory of the smallest node, in GiB.
    `spare_cpus_per_gpu` are the CPUs that an engine may reserve with each of its GPUs, on the node
    that has the fewest; 0 where they are not known.
    """

    gpu: GPU | None
    gpus: int = 0
    gpus_per_node: int = 0
    cpus: int = 1
    cpus_per_node: int = 1
    memory_gib: float = 8.0
    spare_cpus_per_gpu: float = 0.0
