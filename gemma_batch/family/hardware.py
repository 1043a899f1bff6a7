"""Hardware: the GPUs and CPUs of a cluster, as plain data. `cluster/` reads the data from Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gemma_batch.family.gpus import GPU

ROUNDING = 1e-6  # shares of a GPU, such as 1/3, do not add up exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster. `gpu` None: it has no GPU, or its GPUs are not known.

    `sliced` means that the GPUs are MIG slices, which cannot work together on one model.
    """

    name: str
    gpus: int = 0
    gpu: GPU | None = None
    cpus: float = 0
    memory_gib: float = 0.0
    sliced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The hardware that engines can run on.

    `gpu` None means that the cluster has only CPUs. Otherwise it is the smallest GPU of the
    cluster: an engine that fits on it fits on every GPU. `gpus` and `cpus` count the whole
    cluster. `gpus_per_node` counts the GPUs of the node with the most GPUs, `cpus_per_node` the
    CPUs of the node with the fewest CPUs. `memory_gib` is the memory of the smallest node, in GiB.
    `nodes` is empty when only these sums are known. `spare_cpus_per_gpu` are the CPUs that an
    engine may reserve with each of its GPUs, on the node that has the fewest; 0 where they are not
    known.
    """

    gpu: GPU | None
    gpus: int = 0
    gpus_per_node: int = 0
    cpus: int = 1
    cpus_per_node: int = 1
    memory_gib: float = 8.0
    nodes: tuple[Node, ...] = ()
    spare_cpus_per_gpu: float = 0.0

    @property
    def gpus_by_node(self) -> list[int]:
        """The GPUs of each node that has any. Without `nodes`, as few and as large as possible."""
        if self.nodes:
            return [node.gpus for node in self.nodes if node.gpus]
        largest = max(1, self.gpus_per_node or self.gpus)
        full, rest = divmod(self.gpus, largest)
        return [largest] * full + [rest] * bool(rest)

    def room(self, gpus: float) -> int:
        """The number of engines that have room, if each needs `gpus` GPUs of one node.

        `gpus` below 1 is a share of one GPU.
        """
        if gpus < 1:
            return sum(self.gpus_by_node) * round(1 / gpus)
        return sum(int(count // gpus) for count in self.gpus_by_node)

    def has_room_for(self, engines: Iterable[float]) -> bool:
        """Whether engines that need so many GPUs each have room at the same time.

        The largest engines go first, each to the first node with room.
        """
        free: list[float] = list(self.gpus_by_node)
        for gpus in sorted(engines, reverse=True):
            for node, count in enumerate(free):
                if count >= gpus - ROUNDING:
                    free[node] -= gpus
                    break
            else:
                return False
        return True

    @property
    def is_mixed(self) -> bool:
        """Whether the GPUs differ, or are MIG slices: what fits is then not plain to see."""
        return len(self._kinds) > 1 or any(node.sliced for node in self.nodes)

    @property
    def _kinds(self) -> set[str]:
        return {node.gpu.name for node in self.nodes if node.gpu}

    def describe(self) -> str:
        """The GPUs by kind, largest first: "8 x H100-80 on 1 node and 4 x L4 on 2 nodes"."""
        gpus: Counter[str] = Counter()
        nodes: Counter[str] = Counter()
        for node in sorted(self.nodes, key=lambda node: -node.gpu.memory_gib if node.gpu else 0):
            if node.gpus:
                kind = node.gpu.name if node.gpu else "unknown GPU"
                gpus[kind] += node.gpus
                nodes[kind] += 1
        return " and ".join(
            f"{count} x {kind} on {nodes[kind]} node{'s' if nodes[kind] > 1 else ''}"
            for kind, count in gpus.items()
        )


def hardware_from(data: Mapping[str, Any]) -> Hardware:
    """The hardware that `dataclasses.asdict` made the data of, also by way of JSON."""
    nodes = tuple(Node(**{**node, "gpu": _gpu_from(node["gpu"])}) for node in data["nodes"])
    return Hardware(**{**data, "gpu": _gpu_from(data["gpu"]), "nodes": nodes})


def _gpu_from(data: Mapping[str, Any] | None) -> GPU | None:
    if data is None:
        return None
    lists = {name: tuple(data[name]) for name in ("compute_capability", "aliases")}
    return GPU(**{**data, **lists})
