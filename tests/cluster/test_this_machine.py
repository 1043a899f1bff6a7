"""This machine: what a local Ray would offer, by arithmetic that does not start Ray."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from ray._private import utils

from gemma_batch.cluster.this_machine import cpu_count, memory_for_engines, this_machine
from gemma_batch.family.memory import GIB
from tests.cluster.test_cards import H100, write
from tests.cluster.test_cards import smi as smi

NOTHING = Path("/nowhere")


def test_memory_and_cpus_are_those_that_ray_would_offer() -> None:
    """By Ray's own functions, in this machine or container; others take memory meanwhile."""
    free = utils.estimate_available_memory()
    wanted = free - utils.resolve_object_store_memory(free)
    assert memory_for_engines() == pytest.approx(wanted, rel=0.1)
    assert cpu_count() == utils.get_num_cpus()
    assert this_machine(gpus=False).memory_gib == pytest.approx(wanted / GIB, rel=0.1)


V1 = {
    "memory/memory.limit_in_bytes": f"{4 * GIB}",
    "memory/memory.usage_in_bytes": f"{2 * GIB}",
    "memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}\ntotal_active_file {GIB // 2}",
    "cpu/cpu.cfs_quota_us": "100000",
    "cpu/cpu.cfs_period_us": "100000",
}
V2 = {
    "memory.max": f"{4 * GIB}",
    "memory.current": f"{2 * GIB}",
    "memory.stat": f"anon 1\nactive_file {GIB // 2}\ninactive_file {GIB // 2}",
    "cpu.max": "100000 100000",
}


@pytest.mark.parametrize(
    ("files", "free", "cpus"),
    [
        (V1, 3 * GIB, 1),
        (V2, 3 * GIB, 1),
        ({**V2, "memory.max": f"{10**18}"}, psutil.virtual_memory().total - GIB, 1),
        ({**V2, "memory.max": "max", "cpu.max": "max 100000"},
         psutil.virtual_memory().total - GIB, utils.get_num_cpus()),
        ({**V1, "cpu/cpu.cfs_quota_us": "-1"}, 3 * GIB, utils.get_num_cpus()),
        ({**V2, "cpu.max": "50000 100000"}, 3 * GIB, 1),
        ({**V2, "memory.current": f"{9 * GIB}"}, 0, 1),
    ],
)  # fmt: skip
def test_the_limits_of_a_container_count(
    tmp_path: Path, files: dict[str, str], free: int, cpus: int
) -> None:
    """Of both versions of control groups; files that the kernel can drop are free memory."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_for_engines(tmp_path, NOTHING) == pytest.approx(free - min(0.3 * free, 10**10))
    assert cpu_count(tmp_path) == cpus


@pytest.mark.parametrize(
    ("script", "visible", "gpus", "name"),
    [
        (f'echo "{H100}Disabled"; echo "{H100}Disabled"', None, 2, "H100-80"),
        (f'echo "{H100}Disabled"; echo "{H100}Disabled"', "1", 1, "H100-80"),
        (f'echo "{H100}Disabled"', "", 0, None),
        ("exit 9", None, 0, None),
    ],
)
def test_the_gpus_of_this_machine(
    smi: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    visible: str | None,
    gpus: int,
    name: str | None,
) -> None:
    """As nvidia-smi tells them and CUDA_VISIBLE_DEVICES leaves them; none where they fail."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    write(smi, script)
    found = this_machine()
    assert (found.gpus, found.gpu and found.gpu.name) == (gpus, name)
    assert this_machine(gpus=False).gpus == 0
    assert found.memory_gib > 0
