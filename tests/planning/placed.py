"""Placed routes without files, for arithmetic on them."""

from __future__ import annotations

from typing import Any

from gemma_batch.family.catalog import find_model
from gemma_batch.family.gpus import find_gpu
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.placement import place, place_on_cpu
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.spec import Resources, Route


def route(model: str, gpu: str | None = "H100-80", **resources: Any) -> RoutePlan:
    """A route of one model on a GPU, or on a CPU."""
    card, wanted = find_model(model), Resources(**resources)
    placement = (
        place(
            card,
            find_gpu(gpu),
            max_model_len=4096,
            engines_per_gpu=wanted.engines_per_gpu,
            tensor_parallel=wanted.tensor_parallel,
        )
        if gpu
        else place_on_cpu(card, max_model_len=1024, memory_gib=1e6)
    )
    return RoutePlan(
        route=Route(name="all", model=model),
        resources=wanted,
        card=card,
        files=None,
        max_model_len=4096,
        placement=placement,
    )


H100S = Hardware(gpu=find_gpu("H100-80"), gpus=8, gpus_per_node=8, cpus=64, cpus_per_node=64)
