"""The hardware that `plan` plans for: the GPUs that were named, or the CPU of this machine."""

from __future__ import annotations

import os
from dataclasses import replace

from gemma_batch.cluster.address import starts_here
from gemma_batch.cluster.this_machine import this_machine
from gemma_batch.errors import PlacementError, UserError
from gemma_batch.family.gpus import find_gpu, is_cpu
from gemma_batch.family.hardware import Hardware

USUAL_CPUS_PER_GPU = 8  # usual for cloud instances; used because `plan` sees no cluster
NO_LIMIT_GIB = 1e6  # for nodes of a cluster, whose memory is not known here


def named_hardware(name: str | None, gpus: int) -> Hardware | None:
    """The hardware for a name in `--gpu` or `resources.gpu`; None without a name.

    Raises `PlacementError` for a name that is not known.
    """
    if not name:
        return None
    if is_cpu(name):
        return on_this_cpu()
    return Hardware(
        gpu=find_gpu(name),
        gpus=gpus,
        gpus_per_node=min(gpus, 8),
        cpus=gpus * USUAL_CPUS_PER_GPU,
        memory_gib=on_this_cpu().memory_gib,  # for a route with `device: cpu`
    )


def on_this_cpu() -> Hardware:
    """The CPU of this machine; its memory counts unless a run goes to a cluster."""
    hardware = this_machine(gpus=False)
    return hardware if _runs_here() else replace(hardware, memory_gib=NO_LIMIT_GIB)


def hardware_notes(
    gpu: str | None, hardware: Hardware | None, here: Hardware, *, wanted: bool
) -> list[str]:
    """What people should know about the hardware of the plan, in sentences.

    `gpu` is the name that was given, `wanted` whether the job goes to GPUs where there are any.
    """
    cluster = os.environ.get("RAY_ADDRESS")
    if hardware is None:
        if not _runs_here():
            would = f"A run here goes to the Ray cluster at RAY_ADDRESS, {cluster!r}"
        elif here.gpu is not None:
            would = f"A run on this machine takes its {here.gpus} x {here.gpu.name}"
        else:
            would = (
                f"A run on this machine takes its CPU ({here.cpus} cores, {here.memory_gib:.1f} "
                "GiB of memory for engines)"
            )
        return [
            f"no hardware was named: add --gpu (for example --gpu {_example(here)}, or --gpu cpu) "
            f"to see the placement, the units and the estimate. {would}"
        ]
    if gpu and hardware.gpu is not None and not wanted:
        return [f"--gpu {gpu} changes nothing: no engine of this job goes to a GPU"]
    if hardware.gpu is None and not _runs_here():
        return [
            f"RAY_ADDRESS names the Ray cluster {cluster!r}: the memory of its nodes is not known "
            "here, and the run looks at it"
        ]
    return []


def _example(here: Hardware) -> str:
    try:
        return find_gpu(here.gpu.name).name if here.gpu is not None else "H100-80"
    except PlacementError:  # a GPU of this machine that is not in the table
        return "H100-80"


def _runs_here() -> bool:
    try:
        return starts_here(None)
    except UserError:  # an address that no run can use
        return True
