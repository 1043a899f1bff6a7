"""The physical limit: how many output tokens per second a GPU could give, at the very most.

Two things cannot be had for nothing: arithmetic, and bytes moved between memory and cores. A run
that overlapped them perfectly would take the longer of the two times. Kernel launches, sampling,
PCIe and the traffic of tensor parallelism are left out, so nothing can be faster than this, and
good engines reach about half of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import GIB, Precision, weights_bytes

USABLE_MEMORY = 0.9  # of a GPU, for weights and KV cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Mean tokens of a row. `cached_tokens` of the prompt are found in the prefix cache."""

    prompt_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The least seconds a row can take on one engine, by what it needs, and what follows.

    `concurrency` is the number of sequences that fit in memory together; each reads the weights
    for its own share of a decode step.
    """

    compute_seconds: float
    memory_seconds: float
    concurrency: float
    output_tokens: float

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """What takes longer."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"

    @property
    def rows_per_second(self) -> float:
        """Rows per second of one engine when arithmetic and memory traffic overlap perfectly."""
        return 1 / max(self.compute_seconds, self.memory_seconds, 1e-12)

    @property
    def output_tokens_per_second(self) -> float:
        """Output tokens per second of one engine, overlapped."""
        return self.output_tokens * self.rows_per_second


def limit(
    card: ModelCard,
    gpu: GPU,
    workload: Workload,
    *,
    precision: Precision = "bf16",
    tensor_parallel: int = 1,
    kv_bytes: int = 2,
) -> Limit:
    """The limit of one engine on `tensor_parallel` GPUs. `kv_bytes` is per element of the cache.

        compute = [2 body (P - C) + 2 (body + head) O + attention] / FLOP/s
        memory  = [O (weights / B + KV read per step) + KV of P - C tokens written] / bytes/s
        B       = (0.9 memory - weights) / KV of one sequence of P + O tokens, at least 1

    with P prompt, C cached and O output tokens, `body` the active weights without embeddings and
    `head` the token table. Attention of a token that sees s tokens costs 4 x heads x head_dim x s
    per layer, s at most the window in sliding layers: P / 2 for prompt tokens, P + O / 2 for
    output tokens; KV is read at P + O / 2.

    Sources: the optimum of NanoFlow (arXiv 2408.12757, compute alone) and of BlendServe (arXiv
    2411.16102, the greater of both), with Gemma's windows put in.
    """
    prompt, output = workload.prompt_tokens, workload.output_tokens
    fresh = max(prompt - workload.cached_tokens, 0.0)
    body = card.active_params - card.embedding_params
    head = card.vocab * card.hidden
    work = 2 * body * fresh + 2 * (body + head) * output
    work += fresh * attention_flops(card, prompt / 2)
    work += output * attention_flops(card, prompt + output / 2)
    weights = weights_bytes(card, precision=precision)
    memory = USABLE_MEMORY * gpu.memory_gib * GIB * tensor_parallel
    sequence = _kv_bytes(card, max(prompt + output, 1.0), kv_bytes)
    together = max((memory - weights) / sequence, 1.0)
    read = _kv_bytes(card, prompt + output / 2, kv_bytes)
    written = _kv_bytes(card, prompt, kv_bytes) * (fresh / prompt if prompt else 0.0)
    moved = output * (weights / together + read) + written
    return Limit(
        compute_seconds=work / (peak_flops(card, gpu, precision) * tensor_parallel),
        memory_seconds=moved / (gpu.memory_bandwidth * tensor_parallel),
        concurrency=together,
        output_tokens=output,
    )


def prefill_share(
    card: ModelCard,
    gpu: GPU,
    workload: Workload,
    *,
    precision: Precision = "bf16",
    tensor_parallel: int = 1,
) -> float:
    """The share of prefill in the time of a row when both phases take as long as their limits."""
    known = {"precision": precision, "tensor_parallel": tensor_parallel}
    prefill = limit(card, gpu, replace(workload, output_tokens=0.0), **known)  # type: ignore[arg-type]
    cached = replace(workload, cached_tokens=workload.prompt_tokens)
    decode = limit(card, gpu, cached, **known)  # type: ignore[arg-type]
    first, second = (max(one.compute_seconds, one.memory_seconds) for one in (prefill, decode))
    return first / (first + second) if first + second > 0 else 0.0


def peak_flops(card: ModelCard, gpu: GPU, precision: Precision) -> float:
    """Dense FLOP/s of one GPU in the precision that the model's arithmetic has there."""
    eight = precision == "fp8" or card.weight_bits == 8
    return (gpu.flops_fp8 if eight else None) or gpu.flops_bf16 or 1e12


def attention_flops(card: ModelCard, length: float) -> float:
    """FLOPs of attention for one token that sees `length` tokens, in all layers together."""
    window = min(length, card.sliding_window or length)
    sliding = card.layers - card.layers_full
    full = card.layers_full * card.global_head_dim * length
    return 4 * card.heads * (full + sliding * card.head_dim * window)


def _kv_bytes(card: ModelCard, length: float, element: int) -> float:
    """Bytes of keys and values that a sequence of `length` tokens holds, without padding."""
    window = min(length, card.sliding_window or length)
    full = card.kv_layers_full * card.global_kv_heads * card.global_head_dim * length
    return 2 * element * (full + card.kv_layers_sliding * card.kv_heads * card.head_dim * window)
