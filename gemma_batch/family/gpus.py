"""GPUs: the GPU models that plans can name, as data.

The numbers are from data sheets, not from measurements. An unknown name in a spec is refused, with
the nearest known names. A new GPU needs a row in gpus.json. A device of a real cluster can always
be used: its memory is known, and only its speed is guessed when the device is not in the table.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from gemma_batch.errors import PlacementError

CPU_NAME = "cpu"  # what people write in place of a GPU, to plan for the CPU
_VISIBLE = 0.98  # share of the total memory in nvidia-smi that a process sees


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One GPU model. `memory_gib` is the memory that a process sees; bandwidth is in bytes/s.

    `flops_*` are dense FLOP/s, None when the GPU has no such arithmetic.
    """

    name: str
    memory_gib: float
    memory_bandwidth: float
    flops_bf16: float | None
    flops_fp8: float | None
    compute_capability: tuple[int, int]
    aliases: tuple[str, ...] = ()

    @property
    def capability(self) -> str:
        """The compute capability as text, such as '9.0'."""
        return ".".join(map(str, self.compute_capability))


@cache
def _table() -> tuple[GPU, ...]:
    text = resources.files("gemma_batch.family").joinpath("gpus.json").read_text("utf-8")
    return tuple(
        GPU(
            **{
                **row,
                "compute_capability": tuple(row["compute_capability"]),
                "aliases": tuple(row["aliases"]),
            }
        )
        for row in json.loads(text)["gpus"]
    )


def list_gpus() -> tuple[GPU, ...]:
    """Every known GPU, smallest memory first."""
    return _table()


def find_gpu(name: str) -> GPU:
    """Find a GPU by name or alias; case and separators do not matter ('h100', 'NVIDIA L4').

    Raises `PlacementError`, with all names and the nearest, for an unknown name and for a name that
    fits several GPUs ('A100').
    """
    wanted = _plain(name)
    for gpu in _table():
        if wanted in {_plain(known) for known in (gpu.name, *gpu.aliases)}:
            return gpu
    names = {_plain(gpu.name): gpu.name for gpu in _table()}
    near = [names[plain] for plain in names if wanted and plain.startswith(wanted)]
    near = near or [names[p] for p in difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? K" if near else "k"
    raise PlacementError(
        f"{name!r} is not a GPU that plans know; {hint}nown are {', '.join(names.values())}, and "
        f"{CPU_NAME} for the CPU"
    )


def is_cpu(name: str) -> bool:
    """Whether a name in place of a GPU's means the CPU."""
    return _plain(name) == CPU_NAME


def gpu_from_device(name: str, *, memory_mib: int, compute_capability: float) -> GPU:
    """The GPU for a device as nvidia-smi reports it: product name, total MiB, capability (8.9).

    A device in the table gets its row. When the reported memory differs by more than a twentieth,
    the device has another memory size, and the reported memory counts. A device outside the table
    gets its reported name and memory, and the speed of the known GPU that is nearest in
    generation, then in memory.
    """
    major, minor = f"{compute_capability:.1f}".split(".")
    capability = (int(major), int(minor))
    memory = memory_mib / 1024
    words = re.split(r"[^a-z0-9]+", name.lower())
    same = [gpu for gpu in _table() if gpu.name.lower().removeprefix("rtx-").split("-")[0] in words]
    if same:
        nearest = min(same, key=lambda gpu: abs(gpu.memory_gib - memory))
        if abs(nearest.memory_gib - memory) <= memory / 20:
            return nearest
        return replace(nearest, memory_gib=memory * _VISIBLE)
    like = min(
        _table(),
        key=lambda gpu: (
            abs(gpu.compute_capability[0] - capability[0]),
            abs(gpu.memory_gib - memory),
        ),
    )
    return replace(
        like,
        name=name,
        memory_gib=memory * _VISIBLE,
        compute_capability=capability,
        flops_bf16=like.flops_bf16 if capability >= (8, 0) else None,
        flops_fp8=like.flops_fp8 if capability >= (8, 9) else None,
        aliases=(),
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removesuffix("pcie")
