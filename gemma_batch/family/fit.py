"""Fit: whether a model fits a GPU at a tensor-parallel size, and the error when it does not.

`placement` chooses with this arithmetic. The test is the one that vLLM makes when it starts: the
memory left for KV must hold one sequence of max_model_len while full batches are in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gemma_batch.family import limits
from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU, list_gpus
from gemma_batch.family.memory import (
    GIB,
    Precision,
    concurrency,
    kv_bytes_per_sequence,
    weights_bytes,
)

_MODEL_LEN_STEP = 256


@dataclass(frozen=True, slots=True)
class Fit:
    """One tensor-parallel size on one GPU.

    `kv` and `weights` are bytes per GPU. `concurrency` is how many typical sequences `kv` holds.
    """

    tensor_parallel: int
    kv: int
    weights: int
    concurrency: int
    fits: bool

    @property
    def score(self) -> float:
        """Relative throughput per GPU: saturation / GPUs * communication efficiency."""
        saturation = min(self.concurrency / limits.ENOUGH_SEQUENCES, 1.0)
        share = limits.EFFICIENCY.get(self.tensor_parallel, min(limits.EFFICIENCY.values()))
        return saturation / self.tensor_parallel * share


@dataclass(frozen=True, slots=True)
class Need:
    """Everything that a placement depends on, except the GPU and the tensor-parallel size.

    Lengths are in tokens. `utilization` is the share of a GPU's memory that engines may use.
    """

    card: ModelCard
    max_model_len: int
    precision: Precision
    batched_tokens: int | None
    utilization: float
    engines_per_gpu: int = 1

    def on(self, gpu: GPU, tensor_parallel: int) -> Fit:
        """The fit on this GPU: memory left for KV on each GPU, and how much this memory holds."""
        card = self.card
        memory = int(self.utilization * gpu.memory_gib * GIB) // self.engines_per_gpu
        weights = weights_bytes(card, precision=self.precision, tensor_parallel=tensor_parallel)
        kv = memory - weights - limits.reserve_bytes(card)
        # vLLM does not start when a sequence of max_model_len does not fit. It assumes two full
        # batches in flight (async scheduling).
        inflight = 2 * (self.batched_tokens or limits.batched_tokens(gpu))
        element = 4 if self.precision == "fp32" else 2
        longest = kv_bytes_per_sequence(
            card,
            self.max_model_len,
            kv_bytes=element,
            tensor_parallel=tensor_parallel,
            inflight=inflight,
        )
        together = concurrency(
            card, max(kv, 0), self.typical, kv_bytes=element, tensor_parallel=tensor_parallel
        )
        fits = kv > 0 and kv >= longest and together > 0
        return Fit(tensor_parallel, kv, weights, together, fits)

    @property
    def typical(self) -> int:
        """The length of a typical sequence in tokens, for counting sequences that run together."""
        return min(self.max_model_len, limits.TYPICAL_TOKENS)

    def sizes(self, gpus_per_node: int) -> list[int]:
        """The tensor-parallel sizes to try: those that divide the heads and fit in a node."""
        return [n for n in limits.EFFICIENCY if n <= gpus_per_node and self.card.heads % n == 0]


def does_not_fit(need: Need, gpu: GPU, sizes: list[int], gpus_per_node: int) -> str:
    """One sentence: what is missing, which length would fit here, and which GPU would do."""
    card = need.card
    roomiest = need.on(gpu, max(sizes))
    where = f"{max(sizes)} x {gpu.name}" if max(sizes) > 1 else gpu.name
    shared = f" shared by {need.engines_per_gpu} engines" if need.engines_per_gpu > 1 else ""
    first = (
        f"{card.id} in {need.precision} with max_model_len={need.max_model_len:,} does not fit on "
        f"{where}{shared}: {roomiest.weights / GIB:.1f} GiB of weights per GPU leave "
        f"{max(roomiest.kv, 0) / GIB:.1f} GiB for the KV cache"
    )
    parts = [first]
    if shorter := _longest_that_fits(need, gpu, max(sizes)):
        parts.append(f"there, max_model_len={shorter} would fit")
    parts.append(_smallest_that_fits(need, sizes, gpus_per_node))
    return "; ".join(part for part in parts if part)


def _longest_that_fits(need: Need, gpu: GPU, size: int) -> int | None:
    low, high = 0, need.max_model_len // _MODEL_LEN_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if replace(need, max_model_len=middle * _MODEL_LEN_STEP).on(gpu, size).fits:
            low = middle
        else:
            high = middle - 1
    return low * _MODEL_LEN_STEP or None


def _smallest_that_fits(need: Need, sizes: list[int], gpus_per_node: int) -> str:
    """Name the GPU with the least memory that fits, at the given sizes or at larger ones."""
    usable = sorted(
        (gpu for gpu in list_gpus() if gpu.compute_capability >= (8, 0)),
        key=lambda gpu: gpu.memory_gib,
    )
    attempts = [(sizes, ""), (need.sizes(gpus_per_node), ""), (need.sizes(8), " in one node")]
    for wanted, suffix in attempts:
        for gpu in usable:
            for size in wanted:
                if need.on(gpu, size).fits:
                    return (
                        f"the smallest GPU that would do is {gpu.name} with "
                        f"tensor_parallel={size}{suffix}"
                    )
    return "no known GPU would do: shorten max_model_len or use a smaller or quantized model"
