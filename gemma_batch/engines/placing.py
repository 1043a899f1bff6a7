"""Placing: where an engine's model goes, by the hardware or, for a dry run, anywhere.

The ways of placing that engine classes choose from (see `Engine.place` in `base.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gemma_batch.errors import PlacementError
from gemma_batch.family.card import ModelCard
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.memory import Precision
from gemma_batch.family.placement import Placement, place, place_on_cpu

if TYPE_CHECKING:
    from gemma_batch.spec import Resources

NO_LIMIT_GIB = 1e6


def place_model(
    card: ModelCard, resources: Resources, hardware: Hardware, max_model_len: int
) -> Placement:
    """On a GPU where there is one and the spec does not say cpu. Raises `PlacementError`."""
    if resources.device == "gpu" and hardware.gpu is None:
        raise PlacementError(
            "resources.device is 'gpu' but there is none here: connect to a cluster with GPUs "
            "(--address), or set resources.device to cpu"
        )
    if resources.precision == "fp8" and "quantization" in resources.engine_args:
        raise PlacementError(
            "resources.precision is 'fp8' and resources.engine_args.quantization is "
            f"{resources.engine_args['quantization']!r}: both say how weights are kept, so leave "
            "one of the two out"
        )
    if resources.precision == "fp8" and card.quantization not in (None, "fp8"):
        raise PlacementError(
            f"resources.precision is 'fp8' but the weights of {card.id} are quantized already "
            f"({card.quantization}): leave the precision out, or take the model that is not"
        )
    if hardware.gpu is None or resources.device == "cpu":
        return _on_cpu(
            card, resources, max_model_len, hardware.memory_gib, precision=resources.precision
        )
    try:
        return place(
            card,
            hardware.gpu,
            gpus_per_node=hardware.gpus_per_node or 8,
            max_model_len=max_model_len,
            precision=resources.precision or "bf16",
            engines_per_gpu=resources.engines_per_gpu,
            tensor_parallel=resources.tensor_parallel,
            max_num_seqs=resources.max_num_seqs,
            max_num_batched_tokens=resources.max_num_batched_tokens,
            gpu_memory_utilization=resources.gpu_memory_utilization or 0.90,
        )
    except PlacementError as err:
        if not hardware.is_mixed:
            raise
        raise PlacementError(
            f"{err}. The cluster has {hardware.describe()}: engines must fit on the smallest GPU, "
            "and on one slice where MIG cuts the GPUs; start the other nodes without GPUs (ray "
            "start --num-gpus=0), or use a cluster of one kind of GPU"
        ) from err


def place_anywhere(card: ModelCard, resources: Resources, max_model_len: int) -> Placement:
    """On a CPU without a limit of memory: no weights are loaded, so a 27B fits a laptop.

    For the same reason `resources.precision` is not looked at: a spec for GPUs can run dry here.
    """
    placement = _on_cpu(card, resources, max_model_len, NO_LIMIT_GIB)
    return replace(placement, reason="A dry run: no model is loaded, and no GPU is used.")


def _on_cpu(
    card: ModelCard,
    resources: Resources,
    max_model_len: int,
    memory_gib: float,
    *,
    precision: Precision | None = None,
) -> Placement:
    return place_on_cpu(
        card,
        max_model_len=max_model_len,
        precision=precision,
        tensor_parallel=resources.tensor_parallel or 1,
        max_num_seqs=resources.max_num_seqs,
        max_num_batched_tokens=resources.max_num_batched_tokens,
        memory_gib=memory_gib,
    )
