"""Limits: batch limits and reserves of the engine, with the reason for each number.

vLLM's defaults depend on the code that creates the engine. For all code except its LLM class and
its API server, the defaults are 2048 tokens and 128 sequences. Both limits are therefore always
set, from this table. The numbers are rules of thumb from vLLM's source, its recipes and published
runs. None of them was tuned on a GPU here.
"""

from __future__ import annotations

from gemma_batch.family.card import ModelCard
from gemma_batch.family.gpus import GPU
from gemma_batch.family.memory import GIB

# The TP sizes that a plan tries, and the share of compute that is left after communication.
EFFICIENCY = {1: 1.0, 2: 0.9, 4: 0.8, 8: 0.65}

# With more sequences in flight, reading the weights no longer limits a decode step. More KV memory
# then brings little.
ENOUGH_SEQUENCES = 128

# Most rows are far shorter than max_model_len. Whether a model fits is judged at max_model_len.
# The number of sequences that run together is counted at this length (or max_model_len, if less).
TYPICAL_TOKENS = 2048

FEWEST_SEQUENCES = 16  # a lower limit would hold back rows although KV memory has room for them
OVERSUBSCRIPTION = 1.2  # sequences are on average shorter than the planned length

# (smallest text_params, most sequences). The logits of a 262k vocabulary take 1 MiB per sequence in
# each fp32 copy, and sampling makes several copies. vLLM's memory profile does not always see them.
MOST_SEQUENCES = ((8_000_000_000, 256), (0, 512))

# (compute capability, tokens per step). Hopper and later gain from 16384; on A100 more than 8192
# was slower (vLLM pull request 17885), and smaller GPUs cannot spare the activation memory.
BATCHED_TOKENS = (((9, 0), 16_384), ((0, 0), 8192))

# (smallest text_params, GiB): activation peak, CUDA graphs and memory allocated outside torch.
RESERVE_GIB = ((11_000_000_000, 4.0), (2_000_000_000, 3.0), (0, 2.0))

# (greatest text_params, engines per GPU). datatrove's published runs on an H100 reach 9% of the
# roofline with 270m and 1b, and 47% and more from 4b on. Small models wait for the host, and more
# engine processes help. These numbers are a guess until `benchmarks/gpu.py` has been run.
ENGINES_PER_GPU = ((500_000_000, 4), (1_500_000_000, 2))

# vLLM's defaults for its LLM class on CPUs, per worker.
CPU_SEQUENCES = 256
CPU_BATCHED_TOKENS = 4096


def most_sequences(card: ModelCard) -> int:
    """Upper bound of max_num_seqs."""
    return next(most for size, most in MOST_SEQUENCES if card.text_params >= size)


def batched_tokens(gpu: GPU) -> int:
    """max_num_batched_tokens for a GPU."""
    return next(n for capability, n in BATCHED_TOKENS if gpu.compute_capability >= capability)


def engines_per_gpu(card: ModelCard) -> int:
    """How many engines of a small model one GPU should have, if they fit."""
    return next((n for size, n in ENGINES_PER_GPU if card.text_params <= size), 1)


def reserve_bytes(card: ModelCard) -> int:
    """Bytes per GPU that are reserved for everything except weights and KV cache."""
    return int(next(gib for size, gib in RESERVE_GIB if card.text_params >= size) * GIB)


def sequences_for(card: ModelCard, concurrency: int) -> int:
    """max_num_seqs for an engine whose KV cache holds `concurrency` typical sequences."""
    return max(FEWEST_SEQUENCES, min(int(OVERSUBSCRIPTION * concurrency), most_sequences(card)))
