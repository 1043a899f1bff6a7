"""Placement: how an engine of a model is placed on GPUs or on a CPU, and with which batch limits.

There is one rule. A tensor-parallel size can be used when it divides the heads, and when the
memory left after weights and reserve holds the KV of one sequence of max_model_len. Of these
sizes, the one with the best throughput per GPU wins. This module does not measure, does not know
prices, and places an engine only within one node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gemma_batch.errors import PlacementError
from gemma_batch.family import limits
from gemma_batch.family.card import ModelCard
from gemma_batch.family.fit import Fit, Need, does_not_fit
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import (
    GIB,
    Precision,
    concurrency,
    kv_bytes_per_sequence,
    weights_bytes,
)

_TINY_PARAMS = 100_000_000  # smaller is a test model: float32 is exact, as fast as bf16 on old CPUs
# Seen with vLLM 0.32: fp8 lacks its kernels in the CPU build, and float16 is refused for Gemma.
_CPU_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
GPU_BLOCK, CPU_BLOCK = 16, 128  # tokens per KV block on vLLM's platforms


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How to start engines: GPUs per engine, engines per GPU, and limits of an engine.

    `concurrency` counts the sequences of typical length (at most `limits.TYPICAL_TOKENS` tokens)
    that fit in `kv_gib` GiB of KV cache per GPU (per worker on a CPU). `gpu_memory_utilization` is
    one engine's share of a GPU, and 0 on a CPU. `precision` is of the weights, unless the
    checkpoint is quantized, and `dtype` of the arithmetic. `reason` is one sentence for people.
    """

    tensor_parallel: int
    engines_per_gpu: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    gpu_memory_utilization: float
    precision: Precision
    dtype: str
    reason: str
    kv_gib: float
    concurrency: int


def place(
    card: ModelCard,
    gpu: GPU,
    *,
    gpus_per_node: int = 8,
    max_model_len: int,
    precision: Precision = "bf16",
    tensor_parallel: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    gpu_memory_utilization: float = 0.90,
    engines_per_gpu: int | None = 1,
) -> Placement:
    """Choose the number of GPUs of one engine and the engine's limits.

    Given values are kept. With `engines_per_gpu` None, this number is chosen too: several engines
    for a model so small that the host, not the GPU, limits one engine. Lengths are in tokens.

    Raises `PlacementError` when the model does not fit, with the GPU that would do, if one exists.
    """
    _check_length(card, max_model_len)
    _check_capability(gpu)
    if (engines_per_gpu or 1) > 1 and (tensor_parallel or 1) > 1:
        raise PlacementError(
            f"engines_per_gpu={engines_per_gpu} and tensor_parallel={tensor_parallel} exclude each "
            "other: an engine has either a part of a GPU or several GPUs"
        )
    need = Need(
        card,
        max_model_len,
        precision,
        max_num_batched_tokens,
        gpu_memory_utilization,
        engines_per_gpu or 1,
    )
    if engines_per_gpu is None:
        need = _shared(need, gpu) if tensor_parallel in (None, 1) else need
    shared = need.engines_per_gpu
    if tensor_parallel is not None:
        _check_tensor_parallel(card, tensor_parallel, gpus_per_node)
        sizes = [tensor_parallel]
    else:
        sizes = need.sizes(1 if shared > 1 else gpus_per_node)
    fits = [fit for size in sizes if (fit := need.on(gpu, size)).fits]
    if not fits:
        raise PlacementError(does_not_fit(need, gpu, sizes, gpus_per_node))
    best = max(fits, key=lambda fit: (fit.score, -fit.tensor_parallel))
    tokens = max_num_batched_tokens or limits.batched_tokens(gpu)
    sequences = max_num_seqs or limits.sequences_for(card, best.concurrency)
    if sequences > tokens:
        raise PlacementError(
            f"max_num_seqs={sequences} is above max_num_batched_tokens={tokens}: every running "
            "sequence needs a token in each step"
        )
    chosen = tensor_parallel is None
    return Placement(
        tensor_parallel=best.tensor_parallel,
        engines_per_gpu=shared,
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization / shared,
        precision=precision,
        dtype=dtype_of(precision),
        reason=_reason(need, gpu, best, need.on(gpu, 1), chosen=chosen),
        kv_gib=round(best.kv / GIB, 2),
        concurrency=best.concurrency,
    )


def place_on_cpu(
    card: ModelCard,
    *,
    max_model_len: int,
    memory_gib: float,
    precision: Precision | None = None,
    tensor_parallel: int = 1,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
) -> Placement:
    """Place a model on vLLM's CPU platform, for development and tests.

    `memory_gib` is the memory in GiB that all workers of the engine together may use. The KV cache
    gets at most the memory for one longest sequence and for max_num_seqs typical sequences. With
    `precision` None, a test model gets fp32 and any other bf16. Raises `PlacementError` when the
    model does not fit, or for a precision that vLLM does not have on a CPU.
    """
    _check_length(card, max_model_len)
    _check_tensor_parallel(card, tensor_parallel, tensor_parallel)
    tiny = card.text_params < _TINY_PARAMS
    precision = precision or ("fp32" if tiny else "bf16")
    if precision not in _CPU_PRECISIONS:
        raise PlacementError(
            f"resources.precision is {precision!r}, which vLLM cannot do on a CPU: take "
            f"{' or '.join(_CPU_PRECISIONS)} there, or a GPU"
        )
    element = 4 if precision == "fp32" else 2
    sequences = max_num_seqs or limits.CPU_SEQUENCES * tensor_parallel
    tokens = max_num_batched_tokens or limits.CPU_BATCHED_TOKENS * tensor_parallel
    weights = weights_bytes(card, precision=precision, tensor_parallel=tensor_parallel)
    reserve = GIB // 4 if tiny else GIB
    available = int(memory_gib * GIB) // tensor_parallel - weights - reserve
    # async scheduling is off on CPUs: one batch in flight
    longest = kv_bytes_per_sequence(
        card,
        max_model_len,
        kv_bytes=element,
        tensor_parallel=tensor_parallel,
        inflight=tokens,
        block=CPU_BLOCK,
    )
    if available < longest:
        needed = tensor_parallel * (weights + reserve + longest) / GIB
        raise PlacementError(
            f"{card.id} needs {needed:.1f} GiB of memory on a CPU for one sequence of "
            f"{max_model_len:,} tokens and {memory_gib:.1f} GiB are there: lower max_model_len, "
            "take a smaller model or a GPU"
        )
    typical = min(max_model_len, limits.TYPICAL_TOKENS)
    usual = kv_bytes_per_sequence(
        card, typical, kv_bytes=element, tensor_parallel=tensor_parallel, block=CPU_BLOCK
    )
    kv = min(available, longest + sequences * usual)
    together = concurrency(
        card, kv, typical, kv_bytes=element, tensor_parallel=tensor_parallel, block=CPU_BLOCK
    )
    return Placement(
        tensor_parallel=tensor_parallel,
        engines_per_gpu=1,
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
        max_model_len=max_model_len,
        gpu_memory_utilization=0.0,
        precision=precision,
        dtype=dtype_of(precision),
        reason=(
            f"On a CPU: {weights / GIB:.2f} GiB of weights and {kv / GIB:.2f} GiB of KV cache per "
            "worker."
        ),
        kv_gib=kv / GIB,
        concurrency=together,
    )


def dtype_of(precision: Precision) -> str:
    """The type of the numbers that an engine computes with, by torch's name."""
    return "float32" if precision == "fp32" else "bfloat16"


def _shared(need: Need, gpu: GPU) -> Need:
    """The need with several engines per GPU: the table's number, halved until they have room."""
    engines = limits.engines_per_gpu(need.card)
    while engines > 1:
        among = replace(need, engines_per_gpu=engines)
        fit = among.on(gpu, 1)
        if fit.fits and fit.concurrency >= limits.ENOUGH_SEQUENCES:
            return among
        engines //= 2
    return need


def _check_length(card: ModelCard, max_model_len: int) -> None:
    if max_model_len > card.context:
        raise PlacementError(
            f"max_model_len={max_model_len:,} is above the context of {card.id}, which is "
            f"{card.context:,} tokens"
        )


def _check_capability(gpu: GPU) -> None:
    if gpu.compute_capability < (8, 0):
        raise PlacementError(
            f"{gpu.name} has compute capability {gpu.capability} and no bfloat16, which Gemma "
            "needs (float16 overflows): use a GPU with 8.0 or newer, such as an L4"
        )


def _check_tensor_parallel(card: ModelCard, tensor_parallel: int, gpus_per_node: int) -> None:
    if card.heads % tensor_parallel:
        legal = [n for n in range(1, card.heads + 1) if card.heads % n == 0]
        raise PlacementError(
            f"tensor_parallel={tensor_parallel} does not divide the {card.heads} attention heads "
            f"of {card.id}: use one of {', '.join(map(str, legal))}"
        )
    if tensor_parallel > gpus_per_node:
        raise PlacementError(
            f"tensor_parallel={tensor_parallel} is above the {gpus_per_node} GPUs of a node: an "
            "engine runs within one node"
        )


def _reason(need: Need, gpu: GPU, best: Fit, alone: Fit, *, chosen: bool) -> str:
    weights = f"{best.weights / GIB:.1f} GiB of weights"
    marlin = ""
    if need.precision == "fp8" and gpu.flops_fp8 is None:
        marlin = f" ({gpu.name} has no fp8 arithmetic: fp8 saves memory there, not time)"
    if not chosen:
        head = f"tensor_parallel={best.tensor_parallel} as asked for: "
    elif need.engines_per_gpu > 1:
        head = f"{need.engines_per_gpu} engines on each {gpu.name}, as one is bound by the host: "
    elif best.tensor_parallel == 1:
        head = f"One {gpu.name} per engine: "
    elif not alone.fits:
        head = f"{best.tensor_parallel} x {gpu.name} per engine, as fewer cannot serve it well: "
    else:
        head = (
            f"{best.tensor_parallel} x {gpu.name} per engine, as one would have only "
            f"{alone.kv / GIB:.1f} GiB for the KV cache: "
        )
    where = "" if best.tensor_parallel == 1 else " on each GPU"
    return f"{head}{weights}{where} leave {best.kv / GIB:.1f} GiB for the KV cache{marlin}."
