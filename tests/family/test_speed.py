"""Speed estimates: near published measurements, and monotonic where they must be."""

from __future__ import annotations

import pytest

from gemma_batch.family.catalog import find_model
from gemma_batch.family.gpus import find_gpu
from gemma_batch.family.speed import rows_per_second


@pytest.mark.parametrize(
    ("id", "tensor_parallel", "tokens_per_gpu"),
    [
        ("google/gemma-3-270m-it", 1, 23_585),
        ("google/gemma-3-1b-it", 1, 16_762),
        ("google/gemma-3-4b-it", 1, 9_253),
        ("google/gemma-3-12b-it", 1, 3_046),
        ("google/gemma-3-27b-it", 2, 1_724),
    ],
)
def test_estimates_are_near_published_runs(
    id: str, tensor_parallel: int, tokens_per_gpu: int
) -> None:
    """Within a third of datatrove's output tokens per second and H100 (about 1,100 in, 750 out)."""
    rows = rows_per_second(
        find_model(id),
        find_gpu("H100-80"),
        prompt_tokens=1100,
        output_tokens=750,
        tensor_parallel=tensor_parallel,
    )
    assert rows * 750 / tensor_parallel == pytest.approx(tokens_per_gpu, rel=1 / 3)


def test_more_work_is_slower_and_better_hardware_faster() -> None:
    """The order of estimates is right wherever the host is not the limit."""
    card = find_model("google/gemma-3-27b-it")

    def speed(gpu: str | None, **changes: float) -> float:
        given = {"prompt_tokens": 2000, "output_tokens": 200} | changes
        return rows_per_second(card, find_gpu(gpu) if gpu else None, **given)  # type: ignore[arg-type]

    assert speed("H200-141") > speed("H200-141", output_tokens=400)
    assert speed("H200-141") > speed("H200-141", prompt_tokens=4000)
    assert speed("H200-141", tensor_parallel=2) > speed("H200-141")
    assert speed("B200-192") > speed("H200-141") > speed("A100-80") > speed(None) > 0
    fp8 = rows_per_second(
        card, find_gpu("H200-141"), prompt_tokens=2000, output_tokens=200, precision="fp8"
    )
    assert fp8 > speed("H200-141")


@pytest.mark.parametrize("gpu", [None, "L4", "T4"])
def test_extremes_give_a_usable_number(gpu: str | None) -> None:
    """No prompt, no output or a weak device still give a positive, finite estimate."""
    for id in ("google/gemma-3-270m-it", "google/gemma-4-31B-it"):
        for prompt, output in ((0, 1), (100_000, 1), (1, 8000), (0, 0)):
            rows = rows_per_second(
                find_model(id),
                find_gpu(gpu) if gpu else None,
                prompt_tokens=prompt,
                output_tokens=output,
            )
            assert 0 < rows < 2000
