"""A rough estimate of rows per second, to size units of work before anything was measured.

Roofline arithmetic times the share of it that vLLM reaches in published runs. Good to a factor of
two or so; the report says how far off it was.
"""

from __future__ import annotations

from gemma_batch.family import limits
from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import Precision, weights_bytes
from gemma_batch.family.roofline import Workload, limit

# datatrove's published runs on H100s reach 47% (4b), 60% (12b) and 47% (27b) of the roofline.
ATTAINED = 0.5
# The same runs stop at 16,800 (1b) and 23,600 (270m) output tokens per second, about a tenth of
# the roofline: small models are bound by the host. A row costs about a millisecond besides.
HOST_SECONDS_PER_TOKEN = 1 / 20_000
HOST_SECONDS_PER_ROW = 0.001

START_SECONDS, LOAD_BYTES_PER_SECOND = 60.0, 1e9
CPU_START_SECONDS = 25.0

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
    cached_tokens: float = 0.0,
    tensor_parallel: int = 1,
    precision: Precision = "bf16",
    engines_per_gpu: int = 1,
) -> float:
    """Rows per second of one engine on `tensor_parallel` GPUs (None: on a CPU).

    seconds per row = max(limit of the device / ATTAINED, host time), where the limit is that of
    `roofline` with what communication costs taken off. Engines that share a GPU share the
    device's speed and have a host process each.
    """
    workload = Workload(
        prompt_tokens=prompt_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens
    )
    if gpu is None:
        host = CPU_SECONDS_PER_ROW + CPU_SECONDS_PER_TOKEN * output_tokens
        gpu = CPU
    else:
        host = HOST_SECONDS_PER_ROW + HOST_SECONDS_PER_TOKEN * output_tokens
    efficiency = limits.EFFICIENCY.get(tensor_parallel, min(limits.EFFICIENCY.values()))
    peak = limit(card, gpu, workload, precision=precision, tensor_parallel=tensor_parallel)
    device = 1 / (peak.rows_per_second * ATTAINED * efficiency)
    return 1 / max(device * engines_per_gpu, host)


def start_seconds(
    card: ModelCard,
    gpu: GPU | None,
    *,
    precision: Precision = "bf16",
    tensor_parallel: int = 1,
) -> float:
    """Seconds until an engine answers: weights read, kernels compiled, graphs captured.

    A guess: fixed parts as seen with vLLM 0.32 and weights from a local disk.
    """
    if gpu is None:
        return CPU_START_SECONDS
    weights = weights_bytes(card, precision=precision, tensor_parallel=tensor_parallel)
    return START_SECONDS + weights / LOAD_BYTES_PER_SECOND


CPU = GPU(
    name="CPU",
    memory_gib=CPU_MEMORY_GIB,
    memory_bandwidth=CPU_BANDWIDTH,
    flops_bf16=CPU_FLOPS,
    flops_fp8=None,
    compute_capability=(0, 0),
)
