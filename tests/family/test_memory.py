"""Memory arithmetic: against vLLM's own functions, and against published sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.family.card import ModelCard
from gemma_batch.family.catalog import find_model, load_catalog
from gemma_batch.family.memory import (
    GIB,
    concurrency,
    kv_bytes_per_sequence,
    kv_layout,
    weights_bytes,
)

MIB = 2**20
KNOWN = sorted(id for id, card in load_catalog().items() if card.variant_of is None)
# Shapes that no checkpoint has, for the branches of vLLM's grouping: nearly as many full as
# sliding layers (padded up), pages that do not divide each other (padded pages), one kind only.
ODD: dict[str, dict[str, Any]] = {
    "padded-groups": {"kv_layers_sliding": 12, "kv_layers_full": 10},
    "ragged-groups": {"kv_layers_sliding": 29, "kv_layers_full": 6},
    "padded-pages": {"kv_heads": 3, "global_kv_heads": 2},
    "only-full": {"kv_layers_sliding": 0},
    "only-sliding": {"kv_layers_full": 0},
    "tiny": {"kv_layers_sliding": 5, "kv_layers_full": 1, "head_dim": 32, "global_head_dim": 32},
}


def _cards() -> list[ModelCard]:
    base = find_model("google/gemma-3-4b-it")
    odd = [replace(base, id=name, **changes) for name, changes in ODD.items()]
    return [find_model(id) for id in KNOWN] + odd


@pytest.fixture(scope="module")
def vllm_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real VllmConfig; the tests set lengths and limits on it."""
    from vllm.engine.arg_utils import EngineArgs

    folder: Path = tmp_path_factory.mktemp("model")
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": 512,
        "max_position_embeddings": 131_072,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    made = EngineArgs(
        model=str(folder), skip_tokenizer_init=True, load_format="dummy", enforce_eager=True
    ).create_engine_config()
    made.cache_config.kv_cache_layout = "LBNHC"  # what CUDA backends resolve to by default
    return made


def _vllm_answer(
    config: Any, card: ModelCard, tensor_parallel: int, kv_bytes: int, block: int, budget: int
) -> tuple[int, int, float]:
    """(bytes of one sequence, bytes of one block id, concurrency) as vLLM computes them."""
    import torch
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

    dtype = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}[kv_bytes]
    specs: dict[str, Any] = {}
    window = card.sliding_window or 0
    for i in range(card.kv_layers_sliding):
        specs[f"sliding.{i}"] = SlidingWindowSpec(
            block_size=block,
            num_kv_heads=max(1, card.kv_heads // tensor_parallel),
            head_size=card.head_dim,
            dtype=dtype,
            sliding_window=window,
        )
    for i in range(card.kv_layers_full):
        specs[f"full.{i}"] = FullAttentionSpec(
            block_size=block,
            num_kv_heads=max(1, card.global_kv_heads // tensor_parallel),
            head_size=card.global_head_dim,
            dtype=dtype,
        )
    groups = kv_cache_utils.get_kv_cache_groups(config, specs)
    made = kv_cache_utils.get_kv_cache_config_from_groups(config, groups, budget)
    return (
        kv_cache_utils._max_memory_usage_bytes_from_groups(config, groups),
        kv_cache_utils._pool_bytes_per_block(config, groups),
        kv_cache_utils.get_max_concurrency_for_kv_cache_config(config, made),
    )


@pytest.mark.parametrize("card", _cards(), ids=lambda card: card.id)
def test_kv_cache_is_that_of_vllm(card: ModelCard, vllm_config: Any) -> None:
    """KV bytes, block bytes and concurrency equal vLLM's for any length, TP and precision."""
    budget = 40 * GIB
    for tensor_parallel in (1, 2, 4):
        for kv_bytes, block in ((2, 16), (1, 16), (4, 128)):
            shape = {"kv_bytes": kv_bytes, "tensor_parallel": tensor_parallel, "block": block}
            for tokens in (100, 1024, 8192, 30_000):
                for inflight in (1, 2048, 2 * 16_384):
                    vllm_config.model_config.max_model_len = tokens
                    vllm_config.scheduler_config.max_num_batched_tokens = inflight
                    assert vllm_config.max_in_flight_tokens == inflight
                    sequence, block_bytes, together = _vllm_answer(
                        vllm_config, card, tensor_parallel, kv_bytes, block, budget
                    )
                    ours = kv_bytes_per_sequence(card, tokens, inflight=inflight, **shape)
                    assert (ours, kv_layout(card, **shape).bytes_per_block) == (
                        sequence,
                        block_bytes,
                    )
                    # vLLM counts the null block, which holds nothing, and fractions
                    fits = concurrency(card, budget, tokens, inflight=inflight, **shape)
                    assert together - 1 - 1 / (sequence // block_bytes) <= fits <= together


@pytest.mark.parametrize(
    ("id", "at_2k", "at_8k"),
    [
        ("google/gemma-7b-it", 896, 3584),
        ("google/gemma-2-2b-it", 209, 625),
        ("google/gemma-3-4b-it", 162, 282),
        ("google/gemma-3-12b-it", 453, 837),
        ("google/gemma-3-27b-it", 648, 1128),
        ("google/gemma-3n-E4B-it", 32, 80),
        ("google/gemma-4-E4B-it", 53, 149),
        ("google/gemma-4-12B-it", 357, 453),
        ("google/gemma-4-31B-it", 972, 1452),
    ],
)
def test_steady_kv_of_one_sequence(id: str, at_2k: int, at_8k: int) -> None:
    """MiB per sequence in steady decode, as worked out once by hand for the family table."""
    card = find_model(id)
    assert round(kv_bytes_per_sequence(card, 2048) / MIB) == at_2k
    assert round(kv_bytes_per_sequence(card, 8192) / MIB) == at_8k


def test_no_room_is_no_concurrency() -> None:
    """A budget below one block holds nothing rather than a negative number."""
    assert concurrency(find_model("google/gemma-3-27b-it"), 0, 2048) == 0


@pytest.mark.parametrize(
    ("id", "precision", "gib"),
    [
        ("google/gemma-3-4b-it", "bf16", 7.23),
        ("google/gemma-3-27b-it", "bf16", 50.31),
        ("google/gemma-3-27b-it", "fp8", 26.5),  # 0.526 of bf16: embeddings stay at 2 bytes
        ("google/gemma-3-27b-it", "fp32", 100.62),
        ("google/gemma-4-E2B-it", "bf16", 8.62),
        ("google/gemma-4-31B-it", "bf16", 57.18 + 0.21),  # K a second time in the V slot
    ],
)
def test_weights_of_the_language_model(id: str, precision: Any, gib: float) -> None:
    """GiB of text-only weights equal the published sizes."""
    weights = weights_bytes(find_model(id), precision=precision)
    assert weights / GIB == pytest.approx(gib, abs=0.04)


def test_tensor_parallel_shards_the_language_model_but_not_the_towers() -> None:
    """Two GPUs hold half of the language model each; towers count on both."""
    card = find_model("google/gemma-3-4b-it")
    assert weights_bytes(card, tensor_parallel=2) * 2 == weights_bytes(card)
    both = weights_bytes(card, text_only=False, tensor_parallel=2)
    assert both - weights_bytes(card, tensor_parallel=2) == 2 * card.tower_params


@pytest.mark.parametrize(
    ("id", "gb"),
    [
        ("google/gemma-4-E2B-it-qat-w4a16-ct", 7.3),
        ("google/gemma-4-E4B-it-qat-w4a16-ct", 9.8),
        ("google/gemma-4-12B-it-qat-w4a16-ct", 8.3),
        ("google/gemma-4-31B-it-qat-w4a16-ct", 19.8),
    ],
)
def test_quantized_checkpoints_have_their_published_size(id: str, gb: float) -> None:
    """A 4-bit checkpoint with its towers is within a tenth of its download size (GB, 10^9)."""
    assert weights_bytes(find_model(id), text_only=False) / 1e9 == pytest.approx(gb, rel=0.1)


def test_a_quantized_checkpoint_keeps_its_precision_and_its_real_size() -> None:
    """Asking for bf16 does not double 8-bit weights; the files' size wins over arithmetic."""
    card = find_model("RedHatAI/gemma-3-27b-it-FP8-dynamic")
    assert weights_bytes(card) == weights_bytes(card, precision="fp8")
    measured = replace(card, checkpoint_bytes=29 * 10**9)
    assert weights_bytes(measured) == 29 * 10**9 - 2 * card.tower_params
