"""The pool of a route: how many engines there are, and how much each reserves (driver, laptop).

This module does not import Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gemma_batch.engines.base import engine_class
from gemma_batch.errors import PlacementError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.units.route_job import RouteJob

READ_CORES = 1  # cores that a reading task computes on
READ_CPUS = float(READ_CORES)  # CPUs in Ray's count that it reserves
# CPUs that an engine on GPUs reserves where the node has them: one for vLLM's core process, which
# is busy all the time, and one for the feed and what commits.
ENGINE_CPUS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The least and the most engine actors, and the GPUs and CPUs that each reserves in Ray."""

    least: int
    most: int
    num_gpus: float
    num_cpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWish:
    """What the routes of a job want of a cluster's GPUs.

    `wanted`: engines go to GPUs if there are any. `needed`: the job waits `seconds` for a node with
    at least `gpus` GPUs, where an autoscaler may add one.
    """

    wanted: bool
    needed: bool = False
    gpus: int = 1
    seconds: float = 0.0


def gpu_wish(routes: Iterable[RoutePlan], seconds: float) -> GpuWish:
    """The wish of these routes. Engines that compute nothing, as in a dry run, want no GPU."""
    mine = [
        route.resources
        for route in routes
        if engine_class(route.resources.engine).computes and route.resources.device != "cpu"
    ]
    return GpuWish(
        wanted=bool(mine),
        needed=any(resources.device == "gpu" for resources in mine),
        gpus=max((resources.tensor_parallel or 1 for resources in mine), default=1),
        seconds=seconds,
    )


def make_pool(route: RoutePlan, hardware: Hardware) -> Pool:
    """The pool of a placed route. Raises `PlacementError` when no engine has room on the GPUs."""
    placement, replicas = route.placement, route.resources.replicas
    assert placement is not None
    if placement.gpu_memory_utilization > 0:
        parallel = placement.tensor_parallel
        share = parallel if parallel > 1 else 1 / placement.engines_per_gpu
        room = hardware.room(share)
        if room < 1:
            raise PlacementError(
                f"route {route.route.name!r} needs {parallel} GPUs of one node for one engine, and "
                f"the cluster has {hardware.gpus}, at most {hardware.gpus_per_node} on a node: add "
                "nodes or set resources.tensor_parallel"
            )
        least, most = _bounds(replicas, room)
        cpus = min(ENGINE_CPUS, hardware.spare_cpus_per_gpu * share)
        return Pool(least=least, most=most, num_gpus=share, num_cpus=math.floor(cpus * 100) / 100)
    least, most = _bounds(replicas, 1)
    # Engines must leave Ray one CPU of a node for the reading tasks, even when the other nodes went
    # away and all engines are on one node. The number limits only Ray's scheduling, not the cores
    # that an engine uses.
    spare = max(0.5, hardware.cpus_per_node - READ_CPUS)
    return Pool(least=least, most=most, num_gpus=0, num_cpus=round(min(0.9, spare / most), 2))


def spare_cpus(cpus: float, gpus: float) -> float:
    """CPUs per GPU that engines may reserve on a node with so many CPUs and GPUs in Ray's count.

    Reading tasks keep half of the node's CPUs, and room for one task. So engines find their CPUs on
    every node that has their GPUs, and reading tasks always find a place.
    """
    return max(0.0, min(cpus / 2, cpus - READ_CPUS)) / gpus


def _bounds(replicas: object, room: int) -> tuple[int, int]:
    if replicas == "auto":
        return room, room
    if isinstance(replicas, int):
        return replicas, replicas
    return replicas.min, replicas.max  # type: ignore[attr-defined]


def not_more_than(pool: Pool, engines: int) -> Pool:
    """The pool with at most `engines` engines, so that each engine finds a unit to work on."""
    return replace(pool, least=min(pool.least, engines), most=min(pool.most, engines))


def with_cpu_threads(job: RouteJob, hardware: Hardware, pool: Pool) -> RouteJob:
    """The job with an equal share of the CPU cores for each engine; unchanged on GPUs."""
    engines = pool.most * job.engine.tensor_parallel
    if job.engine.device != "cpu" or engines == 1:
        return job
    threads = max(1, hardware.cpus // engines)
    return replace(job, engine=replace(job.engine, cpu_threads=threads))


def fit_together(lanes: Sequence[tuple[RouteJob, Pool]], hardware: Hardware) -> bool:
    """Whether the engines of all routes, each a job and its pool, fit at the same time."""
    if len(lanes) < 2:
        return True
    gpus = [pool.num_gpus for _, pool in lanes for _ in range(pool.most) if pool.num_gpus]
    cpus = sum(
        pool.most * job.engine.tensor_parallel for job, pool in lanes if job.engine.device == "cpu"
    )
    return hardware.has_room_for(gpus) and cpus < hardware.cpus
