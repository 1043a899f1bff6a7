"""The number of requests that an engine works on at once, at the lengths of the sample."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.family.memory import GIB, kv_bytes_per_sequence
from gemma_batch.planning.at_once import at_once
from gemma_batch.planning.sample import RouteSample

from .placed import route


def sample(tokens: int) -> RouteSample:
    return RouteSample(rows=1, prompt_tokens=(tokens,))


@pytest.mark.parametrize(
    ("model", "gpu", "tokens", "answer", "limit"),
    [
        ("google/gemma-3-4b-it", "H100-80", 35, 256, "max_num_seqs"),
        ("google/gemma-3-4b-it", "L4", 3000, 500, "memory"),
        ("google/gemma-3-27b-it", "H100-80", 3500, 500, "memory"),
        ("google/gemma-3-12b-it", "H100-80", 10**6, 500, "memory"),
        ("google/gemma-3-270m-it", None, 100, 50, "max_num_seqs"),
    ],
)
def test_the_smaller_of_memory_and_max_num_seqs(
    model: str, gpu: str | None, tokens: int, answer: int, limit: str
) -> None:
    """So many requests of this length have room in the KV cache, and one more has none."""
    placed = route(model, gpu)
    assert placed.placement is not None
    found = at_once(placed, sample(tokens), answer)
    assert found is not None
    if limit == "max_num_seqs":
        assert found == placed.placement.max_num_seqs
        return
    one = kv_bytes_per_sequence(
        placed.card,
        min(tokens + answer, placed.max_model_len),
        tensor_parallel=placed.placement.tensor_parallel,
    )
    room = placed.placement.kv_gib * GIB
    assert found < placed.placement.max_num_seqs
    assert found * one < room < (found + 2) * one


@pytest.mark.parametrize(
    ("resources", "tokens", "found"),
    [({"engine": "echo"}, 100, None), ({}, None, None), ({"cpu_kv_cache_gib": 0.05}, 900, 4)],
)
def test_a_dry_run_has_no_such_number_and_a_given_cache_counts(
    resources: dict[str, Any], tokens: int | None, found: int | None
) -> None:
    """Neither has a route that no sampled row takes. 33 blocks of 0.375 MiB hold 1,000 tokens."""
    placed = route("google/gemma-3-270m-it", None, **resources)
    prompts = RouteSample(rows=0) if tokens is None else sample(tokens)
    assert at_once(placed, prompts, 100) == found
