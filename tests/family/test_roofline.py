"""The physical limit: against cases worked out by hand, and a published table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemma_batch.family.card import ModelCard
from gemma_batch.family.catalog import find_model
from gemma_batch.family.gpus import GPU, find_gpu
from gemma_batch.family.memory import GIB, weights_bytes
from gemma_batch.family.roofline import Workload, attention_flops, limit, prefill_share

# A GPU whose numbers are easy to divide by.
ROUND = GPU(
    name="round",
    memory_gib=100.0,
    memory_bandwidth=1e12,
    flops_bf16=1e15,
    flops_fp8=2e15,
    compute_capability=(9, 0),
)
SIZES = ("270m", "1b", "4b", "12b", "27b")
# thousands of output tokens per second on an H200 with 141e9 bytes: in/out -> bf16, then fp8
# weights and KV, then bf16 with half of the prompt cached.
BF16 = {
    (512, 128): (492, 128, 29.2, 8.9, 3.8),
    (1024, 128): (398, 72, 16.3, 5.0, 2.1),
    (1024, 512): (404, 199, 30.4, 9.2, 5.0),
    (1000, 1000): (382, 266, 29.4, 8.9, 4.8),
}
FP8 = {
    (512, 128): (987, 255, 58.4, 17.8, 7.6),
    (1024, 128): (795, 145, 32.7, 9.9, 4.2),
    (1024, 512): (809, 398, 62.8, 20.7, 12.5),
    (1000, 1000): (767, 537, 60.9, 19.9, 13.3),
}
CACHED = {
    (512, 128): (494, 202, 47.3, 14.7, 6.3),
    (1024, 128): (424, 126, 28.8, 8.8, 3.8),
    (1024, 512): (404, 281, 30.4, 9.2, 5.0),
    (1000, 1000): (383, 267, 29.4, 8.9, 4.8),
}


def gemma(size: str) -> ModelCard:
    return find_model(f"google/gemma-3-{size}-it")


def thousands(
    size: str, prompt: int, output: int, *, cached: float = 0.0, fp8: bool = False
) -> float:
    # The table's GPU has 141e9 bytes; what a process sees of it is a little more than that.
    gpu = replace(find_gpu("H200"), memory_gib=141e9 / GIB)
    found = limit(
        gemma(size),
        gpu,
        Workload(prompt_tokens=prompt, output_tokens=output, cached_tokens=cached),
        precision="fp8" if fp8 else "bf16",
        kv_bytes=1 if fp8 else 2,
    )
    return found.output_tokens_per_second / 1000


@pytest.mark.parametrize(("prompt", "output"), BF16)
def test_a_table_made_independently(prompt: int, output: int) -> None:
    """Within 3%, which is what the table's rounding needs."""
    for size, bf16, fp8, half in zip(
        SIZES, BF16[prompt, output], FP8[prompt, output], CACHED[prompt, output], strict=True
    ):
        assert thousands(size, prompt, output) == pytest.approx(bf16, rel=0.03), size
        cached = thousands(size, prompt, output, cached=prompt / 2)
        assert cached == pytest.approx(half, rel=0.03), size
        # The table has the embeddings in 8 bits too: seen where few sequences share the weights.
        near = 0.05 if size == "27b" and output >= 512 else 0.03
        assert thousands(size, prompt, output, fp8=True) == pytest.approx(fp8, rel=near), size


def test_a_case_by_hand() -> None:
    """gemma-3-1b, 1,000 tokens in and 100 out, every term written out."""
    card = gemma("1b")
    # 26 layers, every sixth with full attention, 4 heads of 256, 1 KV head, windows of 512.
    assert (card.layers, card.layers_full, card.heads, card.head_dim) == (26, 4, 4, 256)
    assert (card.kv_heads, card.sliding_window, card.vocab, card.hidden) == (1, 512, 262144, 1152)
    body, head = card.active_params - card.embedding_params, 262_144 * 1152
    prompt = 4 * 4 * 256 * (4 * 500 + 22 * 500)
    output = 4 * 4 * 256 * (4 * 1050 + 22 * 512)
    flops = 2 * body * 1000 + 2 * (body + head) * 100 + 1000 * prompt + 100 * output
    sequence = 2 * 2 * 256 * (4 * 1100 + 22 * 512)
    together = (0.9 * 100 * GIB - weights_bytes(card)) / sequence
    read = 2 * 2 * 256 * (4 * 1050 + 22 * 512)
    written = 2 * 2 * 256 * (4 * 1000 + 22 * 512)
    moved = 100 * (weights_bytes(card) / together + read) + written
    found = limit(card, ROUND, Workload(prompt_tokens=1000, output_tokens=100))
    assert found.compute_seconds == pytest.approx(flops / 1e15)
    assert found.memory_seconds == pytest.approx(moved / 1e12)
    assert found.concurrency == pytest.approx(together)
    longer = max(flops / 1e15, moved / 1e12)
    assert found.output_tokens_per_second == pytest.approx(100 / longer)
    assert found.bound == ("compute" if flops / 1e15 >= moved / 1e12 else "memory")


def test_attention_stops_at_the_window() -> None:
    """Beyond the window only the full layers go on growing."""
    card = gemma("1b")
    short, long = attention_flops(card, 512), attention_flops(card, 1024)
    assert long - short == 4 * card.heads * card.layers_full * card.global_head_dim * 512


@pytest.mark.parametrize("size", SIZES)
def test_what_must_hold_for_every_model(size: str) -> None:
    """Caching is never slower, and two GPUs are at least twice as fast."""
    card, load = gemma(size), Workload(prompt_tokens=1000, output_tokens=200)
    one = limit(card, ROUND, load)
    cached = limit(card, ROUND, replace(load, cached_tokens=900))
    assert cached.output_tokens_per_second >= one.output_tokens_per_second
    two = limit(card, ROUND, load, tensor_parallel=2)
    assert two.output_tokens_per_second >= 2 * one.output_tokens_per_second
    everything = limit(card, ROUND, replace(load, cached_tokens=1000))
    assert everything.compute_seconds < one.compute_seconds


def test_nothing_to_do_is_no_division_by_zero() -> None:
    """Empty workloads give a number."""
    found = limit(gemma("1b"), ROUND, Workload(prompt_tokens=0, output_tokens=0))
    assert found.rows_per_second > 0
    assert found.output_tokens_per_second == 0


def test_prefill_share_is_the_share_of_the_phases() -> None:
    """Long prompts and short answers are nearly all prefill, cached ones are none of it."""
    card, gpu = find_model("google/gemma-3-4b-it"), find_gpu("H100-80")
    summarise = prefill_share(card, gpu, Workload(prompt_tokens=4000, output_tokens=10))
    write = prefill_share(card, gpu, Workload(prompt_tokens=10, output_tokens=1000))
    assert summarise > 0.9
    assert write < 0.05
    cached = Workload(prompt_tokens=4000, output_tokens=10, cached_tokens=4000)
    assert prefill_share(card, gpu, cached) == 0
    half = prefill_share(card, gpu, Workload(prompt_tokens=1000, output_tokens=0))
    assert half == 1
