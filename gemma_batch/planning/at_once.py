"""At once: how many requests an engine works on together, at the lengths of the sample (laptop).

`max_num_seqs` is an upper bound for prompts of any length, and the KV cache holds fewer of long
ones. People see one number: the smaller of the two.
"""

from __future__ import annotations

from gemma_batch.engines.base import engine_class
from gemma_batch.family.memory import GIB, concurrency
from gemma_batch.family.placement import CPU_BLOCK, GPU_BLOCK
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.planning.sample import RouteSample


def at_once(route: RoutePlan, sample: RouteSample, output_tokens: float) -> int | None:
    """Requests that one engine of a placed route works on together.

    Each is as long as the mean prompt of the sample and `output_tokens` tokens. Prefixes that
    prompts share are counted for each of them. None for a dry run and without a sampled prompt.
    """
    placement = route.placement
    assert placement is not None
    if not sample.prompt_tokens or not engine_class(route.resources.engine).computes:
        return None
    on_gpu = placement.gpu_memory_utilization > 0
    kv_gib = placement.kv_gib if on_gpu else route.resources.cpu_kv_cache_gib or placement.kv_gib
    length = min(round(sample.mean_tokens + output_tokens), route.max_model_len)
    room = concurrency(
        route.card,
        int(kv_gib * GIB),
        max(1, length),
        kv_bytes=4 if placement.precision == "fp32" else 2,
        tensor_parallel=placement.tensor_parallel,
        block=GPU_BLOCK if on_gpu else CPU_BLOCK,
    )
    return max(1, min(placement.max_num_seqs, room))
