"""Roofline: the physical limit of a GPU: the most output tokens per second that are possible.

Arithmetic takes time, and moving bytes between memory and cores takes time. A perfect run would do
both at once and take the longer of the two times. Kernel launches, sampling, PCIe and the traffic
of tensor parallelism are left out. No engine can therefore be faster than this limit, and good
engines reach about half of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import GIB, Precision, weights_bytes

USABLE_MEMORY = 0.9  # share of a GPU's memory for weights and KV cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Mean tokens of a row. `cached_tokens` are the prompt tokens found in the prefix cache."""

    prompt_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The least seconds that a row can take on one engine, by arithmetic and by memory traffic.

    `concurrency` is the number of sequences that fit in memory together. They share the cost of
    reading the weights in a decode step. `output_tokens` are the output tokens of a row.
    """

    compute_seconds: float
    memory_seconds: float
    concurrency: float
    output_tokens: float

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Whether arithmetic ("compute") or memory traffic ("memory") takes longer."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"

    @property
    def rows_per_second(self) -> float:
        """Rows per second of one engine when arithmetic and memory traffic overlap perfectly."""
        return 1 / max(self.compute_seconds, self.memory_seconds, 1e-12)

    @property
    def output_tokens_per_second(self) -> float:
        """Output tokens per second of one engine, with the same perfect overlap."""
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
    """The limit of one engine on `tensor_parallel` GPUs.

    `kv_bytes` is the size of an element of the KV cache in bytes. The limit is:

        compute = [2 body (P - C) + 2 (body + head) O + attention] / FLOP/s
        memory  = [O (weights / B + KV read per step) + KV of P - C tokens written] / bytes/s
        B       = (0.9 memory - weights) / KV of one sequence of P + O tokens, at least 1

    P, C and O are the prompt, cached and output tokens of a row. `body` counts the active weights
    without embeddings, `head` the weights of the token table. Attention of a token that sees s
    tokens costs 4 x heads x head_dim x s FLOPs per layer. s is P / 2 for prompt tokens and
    P + O / 2 for output tokens, but at most the window in sliding layers. KV is read at a length of
    P + O / 2.

    Sources: the optimum of NanoFlow (arXiv 2408.12757, compute alone) and of BlendServe (arXiv
    2411.16102, the greater of both), with Gemma's windows added.
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
    """The share of prefill in the time of a row, when prefill and decode run at their limits."""
    known = {"precision": precision, "tensor_parallel": tensor_parallel}
    prefill = limit(card, gpu, replace(workload, output_tokens=0.0), **known)  # type: ignore[arg-type]
    cached = replace(workload, cached_tokens=workload.prompt_tokens)
    decode = limit(card, gpu, cached, **known)  # type: ignore[arg-type]
    first, second = (max(one.compute_seconds, one.memory_seconds) for one in (prefill, decode))
    return first / (first + second) if first + second > 0 else 0.0


def peak_flops(card: ModelCard, gpu: GPU, precision: Precision) -> float:
    """Dense FLOP/s of one GPU in the precision of the model's arithmetic on this GPU."""
    eight = precision == "fp8" or card.weight_bits == 8
    return (gpu.flops_fp8 if eight else None) or gpu.flops_bf16 or 1e12


def attention_flops(card: ModelCard, length: float) -> float:
    """FLOPs of attention for one token that sees `length` tokens, in all layers together."""
    window = min(length, card.sliding_window or length)
    sliding = card.layers - card.layers_full
    full = card.layers_full * card.global_head_dim * length
    return 4 * card.heads * (full + sliding * card.head_dim * window)


def _kv_bytes(card: ModelCard, length: float, element: int) -> float:
    """Bytes of keys and values of a sequence of `length` tokens, without padding."""
    window = min(length, card.sliding_window or length)
    full = card.kv_layers_full * card.global_kv_heads * card.global_head_dim * length
    return 2 * element * (full + card.kv_layers_sliding * card.kv_heads * card.head_dim * window)


def filling(
    card: ModelCard,
    gpu: GPU,
    workload: Workload,
    *,
    running: float,
    slots: int,
    precision: Precision = "bf16",
    tensor_parallel: int = 1,
) -> float:
    """How many times as fast as with `running` sequences an engine is with `slots`; 1 or more.

    By the limit above, where `B` is the number of sequences, and at most those that fit in memory.
    The fixed time of the host for each step is not in it, so a small model gains more than this.
    """
    found = limit(card, gpu, workload, precision=precision, tensor_parallel=tensor_parallel)
    weights = weights_bytes(card, precision=precision)
    once = workload.output_tokens * weights / (gpu.memory_bandwidth * tensor_parallel)
    most = min(float(slots), found.concurrency)

    def seconds(together: float) -> float:
        read = once * (1 / max(together, 1.0) - 1 / found.concurrency)
        return max(found.compute_seconds, found.memory_seconds + read, 1e-12)

    return max(1.0, seconds(min(running, most)) / seconds(most))
