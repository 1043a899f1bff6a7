"""Hardware: what engines can run on, as plain data. `cluster/` reads it from Ray."""

from __future__ import annotations

from dataclasses import dataclass

from gemma_batch.family.gpus import GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What engines can run on.

    `gpu` None means that there are only CPUs. `gpus` and `cpus` are counts of the whole cluster,
    `gpus_per_node` is that of its largest node with GPUs, `cpus_per_node` that of its smallest
    node with CPUs, `memory_gib` the memory of the smallest node.
    """

    gpu: GPU | None
    gpus: int = 0
    gpus_per_node: int = 0
    cpus: int = 1
    cpus_per_node: int = 1
    memory_gib: float = 8.0
