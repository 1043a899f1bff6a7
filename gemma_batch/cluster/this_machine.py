"""This machine: the hardware that a run without a cluster would find here (laptop, driver).

A run starts a local Ray and asks Ray. The plan starts nothing, so this module does Ray's arithmetic
without Ray; a test compares the two.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from gemma_batch.cluster.cards import Card, ask_nvidia_smi, read_cards
from gemma_batch.errors import PlacementError
from gemma_batch.family.hardware import Hardware, Node
from gemma_batch.family.memory import GIB

GROUPS, SHARED = Path("/sys/fs/cgroup"), Path("/dev/shm")  # noqa: S108
# Ray keeps this share of the free memory for its object store, at most this much of /dev/shm, and
# at most this many bytes (`resolve_object_store_memory` in ray/_private/utils.py of Ray 2.60).
OBJECTS, OBJECTS_OF_SHM, OBJECTS_LEAST_CAP, OBJECTS_MOST = 0.3, 0.95, 10**10, 2 * 10**11


def this_machine(*, gpus: bool = True) -> Hardware:
    """The hardware of this machine, as a run on it would see it; with `gpus` False its CPUs alone.

    GPUs that cannot be used do not count.
    """
    cpus = cpu_count()
    memory = memory_for_engines() / GIB
    cards = _cards() if gpus else []
    name = os.uname().nodename
    if not cards:
        node = Node(name=name, cpus=cpus, memory_gib=memory)
        return Hardware(gpu=None, cpus=cpus, cpus_per_node=cpus, memory_gib=memory, nodes=(node,))
    smallest = min((card.gpu for card in cards), key=lambda gpu: gpu.memory_gib)
    sliced = any(card.sliced for card in cards)
    return Hardware(
        gpu=smallest,
        gpus=len(cards),
        gpus_per_node=1 if sliced else len(cards),
        cpus=cpus,
        cpus_per_node=cpus,
        memory_gib=memory,
        nodes=(
            Node(
                name=name,
                gpus=len(cards),
                gpu=smallest,
                cpus=cpus,
                memory_gib=memory,
                sliced=sliced,
            ),
        ),
    )


def _cards() -> list[Card]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None or (visible is not None and not visible.strip(" ,")):
        return []
    try:
        cards = read_cards(ask_nvidia_smi())
    except PlacementError:
        return []
    return cards if visible is None else cards[: len(visible.split(","))]


def memory_for_engines(groups: Path = GROUPS, shared: Path = SHARED) -> float:
    """Bytes that Ray would offer to tasks and actors of a node on this machine.

    It is the memory that is free now, in the container where there is one, without the share of
    Ray's object store.
    """
    free = max(0, _total(groups) - _used(groups))
    try:
        room = os.statvfs(shared)
        cap = max(OBJECTS_LEAST_CAP, int(room.f_frsize * room.f_bavail * OBJECTS_OF_SHM))
    except OSError:
        cap = OBJECTS_LEAST_CAP
    return free - min(free * OBJECTS, cap, OBJECTS_MOST)


def cpu_count(groups: Path = GROUPS) -> int:
    """CPUs that Ray would offer on this machine: the container's where there is a limit."""
    every = os.cpu_count() or 1
    quota = _number(groups / "cpu/cpu.cfs_quota_us")
    period = _number(groups / "cpu/cpu.cfs_period_us")
    if quota is None and (words := _words(groups / "cpu.max"))[1:]:
        quota, period = _as_number(words[0]), _as_number(words[1])
    if not quota or not period or quota < 0:
        return every
    return max(1, min(every, int(quota / period)))


def _total(groups: Path) -> int:
    limit = _number(groups / "memory/memory.limit_in_bytes")
    limit = _number(groups / "memory.max") if limit is None else limit
    machine = psutil.virtual_memory().total
    return machine if limit is None else min(limit, machine)


def _used(groups: Path) -> int:
    """Memory in use, without files that the kernel keeps in memory and can drop."""
    for usage, stat, prefix in (
        ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
        ("memory.current", "memory.stat", ""),
    ):
        used, words = _number(groups / usage), _words(groups / stat)
        if used is not None and words:
            facts = dict(zip(words[::2], words[1::2], strict=False))
            files = (facts.get(f"{prefix}{kind}_file", "0") for kind in ("inactive", "active"))
            return used - sum(map(int, files))
    return psutil.virtual_memory().used


def _number(path: Path) -> int | None:
    return _as_number(words[0]) if (words := _words(path)) else None


def _as_number(word: str) -> int | None:
    return int(word) if word.lstrip("-").isdecimal() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
