"""Placement: the agreed answers, hard limits, and errors that say what would do."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.errors import PlacementError
from gemma_batch.family.catalog import find_model, load_catalog
from gemma_batch.family.gpus import find_gpu, list_gpus
from gemma_batch.family.memory import GIB, kv_bytes_per_sequence, weights_bytes
from gemma_batch.family.placement import Placement, place, place_on_cpu

KNOWN = sorted(id for id, card in load_catalog().items() if card.variant_of is None)
UP_TO_12B = [id for id in KNOWN if load_catalog()[id].text_params < 13e9]
USABLE = [gpu.name for gpu in list_gpus() if gpu.compute_capability >= (8, 0)]


def _place(id: str, gpu: str, **options: Any) -> Placement:
    return place(find_model(id), find_gpu(gpu), **{"max_model_len": 8192, **options})


@pytest.mark.parametrize("max_model_len", [1024, 8192, 32_768, 131_072])
@pytest.mark.parametrize(("gpu", "expected"), [("H100-80", 2), ("A100-80", 2), ("H200-141", 1)])
def test_27b_in_bf16(gpu: str, expected: int, max_model_len: int) -> None:
    """27b gets two 80 GB GPUs or one H200, whatever the longest row may be."""
    assert _place("google/gemma-3-27b-it", gpu, max_model_len=max_model_len).tensor_parallel == (
        expected
    )


@pytest.mark.parametrize("id", UP_TO_12B)
@pytest.mark.parametrize("gpu", ["A100-80", "H100-80"])
def test_up_to_12b_one_gpu_of_80_gb_each(id: str, gpu: str) -> None:
    """Small models are replicated, not sharded."""
    assert _place(id, gpu).tensor_parallel == 1
    assert _place(id, gpu, max_model_len=find_model(id).context).tensor_parallel == 1


def test_fp8_fits_27b_on_one_80_gb_gpu() -> None:
    """Half the weights leave enough KV memory for replicas."""
    placed = _place("google/gemma-3-27b-it", "H100-80", precision="fp8", max_model_len=2048)
    assert (placed.tensor_parallel, placed.dtype) == (1, "bfloat16")
    assert "no fp8 arithmetic" not in placed.reason
    on_a100 = _place("google/gemma-3-27b-it", "A100-80", precision="fp8")
    assert "no fp8 arithmetic" in on_a100.reason


@pytest.mark.parametrize("id", KNOWN)
@pytest.mark.parametrize("gpu", USABLE)
def test_every_placement_keeps_the_hard_limits(id: str, gpu: str) -> None:
    """TP divides the heads, weights and one longest sequence fit, limits are within the table."""
    card, device = find_model(id), find_gpu(gpu)
    for max_model_len in (512, 8192):
        placed = place(card, device, max_model_len=max_model_len)
        assert card.heads % placed.tensor_parallel == 0
        weights = weights_bytes(card, tensor_parallel=placed.tensor_parallel)
        longest = kv_bytes_per_sequence(
            card,
            max_model_len,
            tensor_parallel=placed.tensor_parallel,
            inflight=2 * placed.max_num_batched_tokens,
        )
        assert longest / GIB <= placed.kv_gib + 0.01
        assert weights / GIB + placed.kv_gib < 0.9 * device.memory_gib
        assert 16 <= placed.max_num_seqs <= (256 if card.text_params > 8e9 else 512)
        assert placed.max_num_batched_tokens == (
            16_384 if device.compute_capability >= (9, 0) else 8192
        )
        assert placed.dtype == "bfloat16"
        assert placed.concurrency > 0


def test_what_is_given_is_kept() -> None:
    """Explicit settings are not overruled by the rule."""
    placed = _place(
        "google/gemma-3-27b-it",
        "H200-141",
        tensor_parallel=4,
        max_num_seqs=100,
        max_num_batched_tokens=4096,
        gpu_memory_utilization=0.8,
    )
    assert (placed.tensor_parallel, placed.max_num_seqs) == (4, 100)
    assert (placed.max_num_batched_tokens, placed.gpu_memory_utilization) == (4096, 0.8)
    assert "as asked for" in placed.reason


def test_several_engines_share_a_gpu() -> None:
    """Each engine gets its share of the memory, and sharding is excluded."""
    alone = _place("google/gemma-3-1b-it", "H200-141")
    shared = _place("google/gemma-3-1b-it", "H200-141", engines_per_gpu=4)
    assert shared.engines_per_gpu == 4
    assert shared.gpu_memory_utilization == pytest.approx(0.9 / 4)
    assert shared.kv_gib < alone.kv_gib / 4
    with pytest.raises(PlacementError, match="exclude each other"):
        _place("google/gemma-3-1b-it", "H200-141", engines_per_gpu=2, tensor_parallel=2)


@pytest.mark.parametrize(
    ("id", "gpu", "engines"),
    [
        ("google/gemma-3-270m-it", "H100-80", 4),
        ("google/gemma-3-1b-it", "H100-80", 2),
        ("google/gemma-3-1b-it", "L4", 2),
        ("google/gemma-3-4b-it", "H200-141", 1),
        ("google/gemma-3-27b-it", "H200-141", 1),
    ],
)
def test_small_models_share_a_gpu_when_the_plan_may_choose(id: str, gpu: str, engines: int) -> None:
    """Up to 1B they wait for the host; each must have KV memory for enough sequences."""
    placed = _place(id, gpu, engines_per_gpu=None)
    assert placed.engines_per_gpu == engines
    assert placed.concurrency >= 128 or engines == 1
    assert _place(id, gpu).engines_per_gpu == 1
    assert _place(id, gpu, engines_per_gpu=None, tensor_parallel=2 if "27b" in id else 1)


@pytest.mark.parametrize("gpu", ["T4", "V100"])
def test_gpus_without_bfloat16_are_refused(gpu: str) -> None:
    """Gemma overflows in float16, so capability below 8.0 is refused before anything else."""
    with pytest.raises(PlacementError, match=r"compute capability 7\.[05].*8\.0 or newer"):
        _place("google/gemma-3-270m-it", gpu)


@pytest.mark.parametrize(
    ("id", "options", "said"),
    [
        ("google/gemma-3-4b-it", {"tensor_parallel": 3}, r"does not divide the 8 .* 1, 2, 4, 8"),
        ("google/gemma-3-1b-it", {"tensor_parallel": 8}, "does not divide the 4"),
        ("google/gemma-3-4b-it", {"tensor_parallel": 8, "gpus_per_node": 4}, "above the 4 GPUs"),
        ("google/gemma-2-9b-it", {"max_model_len": 16_384}, "context of .* 8,192"),
        ("google/gemma-3-4b-it", {"max_num_seqs": 9000}, "max_num_seqs=9000"),
    ],
)
def test_settings_that_cannot_work_are_refused(id: str, options: Any, said: str) -> None:
    """The error repeats the setting and says what is possible."""
    with pytest.raises(PlacementError, match=said):
        _place(id, "L40S", **options)


@pytest.mark.parametrize(
    ("id", "gpu", "options", "smallest"),
    [
        ("google/gemma-3-27b-it", "L4", {"gpus_per_node": 1}, "A100-80 with tensor_parallel=1"),
        ("google/gemma-3-27b-it", "L4", {"gpus_per_node": 2}, "A100-40 with tensor_parallel=2"),
        ("google/gemma-3-27b-it", "L4", {"tensor_parallel": 1}, "A100-80 with tensor_parallel=1"),
        (
            "google/gemma-3-12b-it",
            "RTX-4090",
            {"gpus_per_node": 1},
            "A100-40 with tensor_parallel=1",
        ),
        (
            "google/gemma-7b-it",
            "L4",
            {"max_model_len": 4096, "gpus_per_node": 1},
            "RTX-4090 with tensor_parallel=1",
        ),
    ],
)
def test_a_model_that_does_not_fit_names_the_smallest_gpu_that_would(
    id: str, gpu: str, options: dict[str, Any], smallest: str
) -> None:
    """The GPU named in the error is then accepted, and every smaller one is not."""
    with pytest.raises(PlacementError) as caught:
        _place(id, gpu, **options)
    assert f"the smallest GPU that would do is {smallest}" in str(caught.value)
    name = smallest.split()[0]
    assert _place(id, name, **options).tensor_parallel >= 1
    for smaller in USABLE[: USABLE.index(name)]:
        with pytest.raises(PlacementError):
            _place(id, smaller, **options)


def test_a_shorter_context_is_offered_where_it_would_fit() -> None:
    """The length named in the error fits, and the next step up does not."""
    options: dict[str, Any] = {"gpus_per_node": 1, "max_num_batched_tokens": 2048}
    with pytest.raises(PlacementError, match="max_model_len=") as caught:
        _place("google/gemma-3-12b-it", "A100-40", max_model_len=131_072, **options)
    shorter = int(str(caught.value).split("there, max_model_len=")[1].split()[0])
    assert _place("google/gemma-3-12b-it", "A100-40", max_model_len=shorter, **options)
    with pytest.raises(PlacementError):
        _place("google/gemma-3-12b-it", "A100-40", max_model_len=shorter + 256, **options)


def test_nothing_would_do() -> None:
    """Where no GPU of the table is enough, the error says so instead of naming one."""
    with pytest.raises(PlacementError, match="no known GPU would do"):
        _place(
            "google/gemma-4-31B-it",
            "L4",
            gpus_per_node=1,
            precision="fp32",
            engines_per_gpu=16,
        )


@pytest.mark.parametrize("gpu", ["L4", "H100-80", "H200-141"])
@pytest.mark.parametrize("id", ["google/gemma-3-4b-it", "google/gemma-3-27b-it"])
def test_reason_is_one_sentence(id: str, gpu: str) -> None:
    """It is printed as it is: one line, one full stop at its end."""
    reason = _place(id, gpu).reason
    assert reason.endswith(".")
    assert reason[0].isupper() or reason[0].isdigit()
    assert "\n" not in reason
    assert ". " not in reason


def test_cpu_defaults_are_those_of_vllm() -> None:
    """256 sequences and 4096 tokens per worker; bfloat16 for real models, little KV for small."""
    card = find_model("google/gemma-3-270m-it")
    placed = place_on_cpu(card, max_model_len=2048, memory_gib=12)
    assert (placed.max_num_seqs, placed.max_num_batched_tokens) == (256, 4096)
    assert (placed.dtype, placed.gpu_memory_utilization) == ("bfloat16", 0)
    two = place_on_cpu(card, max_model_len=2048, memory_gib=12, tensor_parallel=2)
    assert (two.max_num_seqs, two.max_num_batched_tokens) == (512, 8192)
    assert weights_bytes(card) / GIB + placed.kv_gib <= 12


def test_cpu_without_enough_memory_is_refused() -> None:
    """The error says how much is needed and how much there is."""
    with pytest.raises(PlacementError, match=r"needs \d+\.\d GiB .* 4\.0 GiB are there"):
        place_on_cpu(find_model("google/gemma-3-4b-it"), max_model_len=2048, memory_gib=4)
    with pytest.raises(PlacementError, match="does not divide"):
        place_on_cpu(
            find_model("google/gemma-3-4b-it"), max_model_len=2048, memory_gib=64, tensor_parallel=3
        )
