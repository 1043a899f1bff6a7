"""The pool: how many engines a cluster has room for, and what each reserves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemma_batch.errors import PlacementError
from gemma_batch.family.gpus import find_gpu
from gemma_batch.family.hardware import Hardware, Node
from gemma_batch.planning.pool import (
    ENGINE_CPUS,
    READ_CPUS,
    GpuWish,
    gpu_wish,
    make_pool,
    not_more_than,
    spare_cpus,
)
from gemma_batch.spec import Resources

from .placed import H100S, route


@pytest.mark.parametrize(
    ("model", "engines", "share"),
    [
        ("google/gemma-3-270m-it", 32, 0.25),
        ("google/gemma-3-1b-it", 16, 0.5),
        ("google/gemma-3-4b-it", 8, 1),
        ("google/gemma-3-27b-it", 4, 2),
    ],
)
def test_engines_fill_the_gpus(model: str, engines: int, share: float) -> None:
    """Several small models share a GPU, a large one takes several."""
    pool = make_pool(route(model), H100S)
    assert (pool.least, pool.most, pool.num_gpus, pool.num_cpus) == (engines, engines, share, 0)


def test_what_is_asked_for_is_kept() -> None:
    """Engines per GPU and replicas of the spec win over what the plan would choose."""
    pool = make_pool(route("google/gemma-3-1b-it", engines_per_gpu=1), H100S)
    assert (pool.most, pool.num_gpus) == (8, 1)
    pool = make_pool(route("google/gemma-3-1b-it", replicas={"min": 1, "max": 3}), H100S)
    assert (pool.least, pool.most, pool.num_gpus) == (1, 3, 0.5)
    assert not_more_than(pool, 2).most == 2


@pytest.mark.parametrize(
    ("resources", "wish"),
    [
        ([{}], GpuWish(wanted=True, seconds=9)),
        (
            [{"device": "cpu"}, {"engine": "echo", "device": "gpu"}],
            GpuWish(wanted=False, seconds=9),
        ),
        (
            [{"device": "cpu"}, {"device": "gpu", "tensor_parallel": 4}, {"device": "gpu"}],
            GpuWish(wanted=True, needed=True, gpus=4, seconds=9),
        ),
    ],
)
def test_nodes_are_asked_for_gpus_only_where_a_route_wants_them(
    resources: list[dict[str, Any]], wish: GpuWish
) -> None:
    """A dry run or a run on CPUs must not wait for, or fail at, GPUs that it does not use."""
    routes = [
        replace(route("google/gemma-3-4b-it"), resources=Resources(**each)) for each in resources
    ]
    assert gpu_wish(routes, 9) == wish


def test_no_room_is_said_before_anything_starts() -> None:
    """A tensor-parallel engine needs its GPUs in the cluster."""
    small = Hardware(gpu=find_gpu("H100-80"), gpus=1, gpus_per_node=1)
    with pytest.raises(
        PlacementError, match=r"needs 2 GPUs of one node for one engine, and .* has 1"
    ):
        make_pool(route("google/gemma-3-27b-it", tensor_parallel=2), small)


@pytest.mark.parametrize(
    ("gpus", "room"), [((6, 6), 2), ((8, 8), 4), ((3, 3, 4), 1), ((4, 7), 2), ((12,), 3)]
)
def test_an_engine_over_several_gpus_needs_them_on_one_node(
    gpus: tuple[int, ...], room: int
) -> None:
    """What is left over on two nodes makes no engine; it would wait for ever."""
    hardware = Hardware(
        gpu=find_gpu("L4"),
        gpus=sum(gpus),
        gpus_per_node=max(gpus),
        nodes=tuple(Node(name=f"n{i}", gpus=count) for i, count in enumerate(gpus)),
    )
    wide = route("google/gemma-3-27b-it", "L4", tensor_parallel=4)
    assert make_pool(wide, hardware).most == room
    assert make_pool(wide, hardware).num_gpus == 4
    assert hardware.has_room_for([4] * room)
    assert not hardware.has_room_for([4] * (room + 1))
    assert hardware.has_room_for([1 / 3] * 3 * sum(gpus))
    assert not hardware.has_room_for([1 / 3] * (3 * sum(gpus) + 1))


@pytest.mark.parametrize(("gpus", "per_node", "room"), [(12, 6, 2), (16, 8, 4), (6, 8, 1)])
def test_a_plan_for_a_cluster_that_is_not_there_counts_by_nodes_too(
    gpus: int, per_node: int, room: int
) -> None:
    """With the number of GPUs and of GPUs per node alone."""
    hardware = Hardware(gpu=find_gpu("L4"), gpus=gpus, gpus_per_node=per_node)
    assert hardware.room(4) == room


@pytest.mark.parametrize("cpus", [0, 0.5, 1, 2, 4, 8, 12, 16, 64, 208])
@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("model", ["270m", "1b", "4b", "27b"])
def test_engines_on_gpus_reserve_cores_and_always_find_them(
    model: str, gpus: int, cpus: float
) -> None:
    """All engines of a node fit its CPUs with room to read, however few CPUs the node declares."""
    spare = spare_cpus(cpus, gpus)
    hardware = Hardware(gpu=find_gpu("H100-80"), gpus=8, gpus_per_node=8, spare_cpus_per_gpu=spare)
    pool = make_pool(route(f"google/gemma-3-{model}-it"), hardware)
    engines = int(gpus / pool.num_gpus)
    taken = engines * pool.num_cpus
    assert taken <= max(0, cpus - READ_CPUS)
    assert taken <= cpus / 2
    assert pool.num_cpus == ENGINE_CPUS or cpus < 2 * ENGINE_CPUS * max(1, gpus / pool.num_gpus)


@pytest.mark.parametrize(("cpus", "replicas"), [(1, 1), (2, 1), (2, 4), (64, 64)])
def test_engines_on_cpus_leave_one_to_read_with(cpus: int, replicas: int) -> None:
    """Also when all of them end up on one node."""
    hardware = Hardware(gpu=None, cpus=cpus, cpus_per_node=cpus)
    pool = make_pool(route("google/gemma-3-270m-it", None, replicas=replicas), hardware)
    assert pool.num_gpus == 0
    assert pool.num_cpus * replicas <= max(0.5, cpus - 1) + 0.01 * replicas
