"""Speed: a rough estimate of rows per second, to size units before anything is measured.

The estimate is the roofline limit times the share of the limit that vLLM reaches in published runs.
It is good to a factor of about two. The report shows estimate and result side by side.
"""

from __future__ import annotations

from gemma_batch.family import limits
from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import Precision, weights_bytes
from gemma_batch.family.roofline import Workload, limit

# datatrove's published runs on H100s reach 47% (4b), 60% (12b) and 47% (27b) of the roofline.
ATTAINED = 0.5
# The same runs reach only 16,800 (1b) and 23,600 (270m) output tokens per second, about a tenth of
# the roofline: the host limits small models. In addition, a row costs about a millisecond.
HOST_SECONDS_PER_TOKEN = 1 / 20_000
HOST_SECONDS_PER_ROW = 0.001

START_SECONDS, LOAD_BYTES_PER_SECOND = 60.0, 1e9
CPU_START_SECONDS = 25.0

# Guesses for a development machine: a few server cores with AVX.
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
    """Rows per second of one engine on `tensor_parallel` GPUs (`gpu` None: on a CPU).

    seconds per row = max(least seconds of the device / ATTAINED / EFFICIENCY, host seconds)

    The least seconds come from `roofline`, and EFFICIENCY is the share that communication leaves.
    Engines that share a GPU share the speed of the device, but each engine has one host process.
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
    """Seconds until an engine answers: it reads weights, compiles kernels and captures graphs.

    The number is a guess: the fixed part was seen with vLLM 0.32, with weights on a local disk.
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
