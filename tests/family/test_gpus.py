"""The GPU table: names people use, and sane numbers."""

from __future__ import annotations

import pytest

from gemma_batch.errors import PlacementError
from gemma_batch.family.gpus import find_gpu, gpu_from_device, list_gpus


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H100-80", "H100-80"),
        ("h100", "H100-80"),
        ("NVIDIA H100 80GB HBM3", "H100-80"),
        ("NVIDIA L4", "L4"),
        ("a100-80gb", "A100-80"),
        ("A100-40G", "A100-40"),
        ("h200", "H200-141"),
        ("RTX 4090", "RTX-4090"),
    ],
)
def test_names_in_use_find_the_gpu(name: str, expected: str) -> None:
    """Case, separators, the maker's name and common short forms do not matter."""
    assert find_gpu(name).name == expected


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("A100", r"did you mean A100-40 or A100-80\? Known are T4, .*, and cpu for the CPU$"),
        ("H100-8O", r"did you mean H100-80.* Known are T4, .*, and cpu"),
        ("MI300X", "know; known are T4, .*, and cpu for the CPU"),
        ("", "T4"),
    ],
)
def test_an_unknown_or_ambiguous_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    """Nothing is guessed: the error repeats the name and offers what there is."""
    with pytest.raises(PlacementError, match=near) as caught:
        find_gpu(name)
    assert repr(name) in str(caught.value)


def test_numbers_have_the_right_order_of_magnitude() -> None:
    """A slip in a unit would put a number outside these bounds; names and aliases are unique."""
    gpus = list_gpus()
    assert [gpu.memory_gib for gpu in gpus] == sorted(gpu.memory_gib for gpu in gpus)
    names = [name for gpu in gpus for name in (gpu.name, *gpu.aliases)]
    assert len(names) == len(set(names))
    for gpu in gpus:
        assert 10 < gpu.memory_gib < 300
        assert 0.2e12 < gpu.memory_bandwidth < 10e12
        assert (gpu.flops_bf16 is None) == (gpu.compute_capability < (8, 0))
        assert gpu.flops_bf16 is None or 50e12 < gpu.flops_bf16 < 3000e12
        assert (gpu.flops_fp8 is not None) == (gpu.compute_capability >= (8, 9))


@pytest.mark.parametrize(
    ("device", "mib", "capability", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 81_559, 9.0, "H100-80"),
        ("NVIDIA H100 PCIe", 81_559, 9.0, "H100-80"),
        ("NVIDIA A100-SXM4-80GB", 81_920, 8.0, "A100-80"),
        ("NVIDIA A100-SXM4-40GB", 40_960, 8.0, "A100-40"),
        ("NVIDIA A100 80GB PCIe", 81_920, 8.0, "A100-80"),
        ("NVIDIA H200", 143_771, 9.0, "H200-141"),
        ("NVIDIA B200", 183_359, 10.0, "B200-192"),
        ("NVIDIA L4", 23_034, 8.9, "L4"),
        ("NVIDIA L40S", 46_068, 8.9, "L40S"),
        ("NVIDIA A10G", 23_028, 8.6, "A10G"),
        ("NVIDIA GeForce RTX 4090", 24_564, 8.9, "RTX-4090"),
        ("Tesla T4", 15_360, 7.5, "T4"),
        ("Tesla V100-SXM2-16GB", 16_384, 7.0, "V100"),
    ],
)
def test_devices_of_the_table_are_recognised(
    device: str, mib: int, capability: float, expected: str
) -> None:
    """What nvidia-smi prints for a known GPU leads to its row."""
    assert gpu_from_device(device, memory_mib=mib, compute_capability=capability) == find_gpu(
        expected
    )


def test_other_memory_sizes_and_unknown_devices_are_usable() -> None:
    """Measured memory counts; speed is that of the nearest known GPU."""
    nvl = gpu_from_device("NVIDIA H100 NVL", memory_mib=95_830, compute_capability=9.0)
    assert nvl.name == "H100-80"
    assert 90 < nvl.memory_gib < 93.6
    assert nvl.flops_bf16 == find_gpu("H100").flops_bf16
    new = gpu_from_device("NVIDIA RTX A6000", memory_mib=49_140, compute_capability=8.6)
    assert (new.name, new.compute_capability) == ("NVIDIA RTX A6000", (8, 6))
    assert 46 < new.memory_gib < 48
    assert new.flops_bf16 is not None
    assert new.flops_fp8 is None
    old = gpu_from_device("Quadro RTX 8000", memory_mib=46_080, compute_capability=7.5)
    assert old.flops_bf16 is None
