"""A rough estimate of rows per second, to size units of work before anything was measured.

Roofline arithmetic times the share of it that vLLM reaches in published runs. Good to a factor of
two or so; the ledger's measured speed replaces it once a run has started.
"""

from __future__ import annotations

from gemma_batch.family import limits
from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import GIB, Precision, kv_bytes_per_sequence, weights_bytes

# datatrove's published runs on H100s reach 47% (4b), 60% (12b) and 47% (27b) of the roofline.
ATTAINED = 0.5
# The same runs stop at 16,800 (1b) and 23,600 (270m) output tokens per second, about a tenth of
# the roofline: small models are bound by the host. A row costs about a millisecond besides.
HOST_SECONDS_PER_TOKEN = 1 / 20_000
HOST_SECONDS_PER_ROW = 0.001

# A few server cores with AVX: guesses, for development machines.
CPU_FLOPS = 0.2e12
CPU_BANDWIDTH = 20e9
CPU_MEMORY_GIB = 16.0
CPU_SECONDS_PER_TOKEN = 1 / 2_000
CPU_SECONDS_PER_ROW = 0.004


def rows_per_second(
    card: ModelCard,
    gpu: GPU | None,
    *,
    prompt_tokens: float,
    output_tokens: float,
    tensor_parallel: int = 1,
    precision: Precision = "bf16",
) -> float:
    """Rows per second of one engine on `tensor_parallel` GPUs (None: on a CPU).

    compute = [2 body x prompt + 2 (body + head) x output + attention] / peak FLOP/s
    memory  = [output x (weights / B + KV read) + prompt KV written] / bytes/s
    seconds per row = max(max(compute, memory) / ATTAINED, host time)

    where body is the active weights without embeddings, head the token table, and B the sequences
    that fit in memory together. It is the roofline of NanoFlow and BlendServe with Gemma's
    windowed attention and KV.
    """
    fp8 = precision == "fp8" or card.weight_bits == 8
    if gpu is None:
        flops, bandwidth, memory = CPU_FLOPS, CPU_BANDWIDTH, CPU_MEMORY_GIB * GIB
        host = CPU_SECONDS_PER_ROW + CPU_SECONDS_PER_TOKEN * output_tokens
    else:
        peak = (gpu.flops_fp8 if fp8 else None) or gpu.flops_bf16 or 0.0
        scale = tensor_parallel * limits.EFFICIENCY.get(tensor_parallel, 0.65)
        flops = max(peak * scale, CPU_FLOPS)
        bandwidth = gpu.memory_bandwidth * scale
        memory = 0.9 * gpu.memory_gib * GIB * tensor_parallel
        host = HOST_SECONDS_PER_ROW + HOST_SECONDS_PER_TOKEN * output_tokens
    body = card.active_params - card.embedding_params
    head = card.vocab * card.hidden
    compute = 2 * body * prompt_tokens + 2 * (body + head) * output_tokens
    compute += prompt_tokens * _attention_flops(card, prompt_tokens / 2)
    compute += output_tokens * _attention_flops(card, prompt_tokens + output_tokens / 2)
    weights = weights_bytes(card, precision=precision)
    sequence = kv_bytes_per_sequence(card, max(1, round(prompt_tokens + output_tokens)))
    together = min(max((memory - weights) / sequence, 1.0), limits.most_sequences(card))
    read = _kv_bytes(card, prompt_tokens + output_tokens / 2)
    moved = output_tokens * (weights / together + read) + _kv_bytes(card, prompt_tokens)
    return 1 / max(max(compute / flops, moved / bandwidth) / ATTAINED, host)


def _attention_flops(card: ModelCard, length: float) -> float:
    """FLOPs of attention for one token that sees `length` tokens, in every layer."""
    window = min(length, card.sliding_window or length)
    sliding = card.layers - card.layers_full
    full = card.layers_full * card.global_head_dim * length
    return 4 * card.heads * (full + sliding * card.head_dim * window)


def _kv_bytes(card: ModelCard, length: float) -> float:
    """Bytes of keys and values that a sequence of `length` tokens holds, bf16, no padding."""
    window = min(length, card.sliding_window or length)
    full = card.kv_layers_full * card.global_kv_heads * card.global_head_dim * length
    return 4 * (full + card.kv_layers_sliding * card.kv_heads * card.head_dim * window)
