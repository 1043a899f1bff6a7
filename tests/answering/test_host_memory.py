"""How full the memory is: of the container where that has a limit, else of the machine."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gemma_batch.answering.host_memory import memory_share


def group(folder: Path, limit: str, used: int, droppable: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {droppable}\nfile 7\n")
    return folder


def machine() -> float:
    memory = psutil.virtual_memory()
    return 1 - memory.available / memory.total


def test_a_container_counts_its_own_limit(tmp_path: Path) -> None:
    """Without the pages that the kernel can drop."""
    assert memory_share(group(tmp_path, "1000", 1200, 205)) == 0.995


@pytest.mark.parametrize("limit", ["max", "1000000"])
def test_without_a_limit_the_machine_counts(tmp_path: Path, limit: str) -> None:
    """Also where the container is emptier than the machine around it."""
    found = memory_share(group(tmp_path, limit, 1000, 0))
    assert found == pytest.approx(machine(), abs=0.1)
    assert memory_share(tmp_path / "nowhere") == pytest.approx(machine(), abs=0.1)
