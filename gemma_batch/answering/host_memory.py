"""How full the memory of this machine or of this container is (GPU actor).

The kernel kills a container at the container's limit, even when the machine has memory left. So
the limit of the control group counts where there is one. Pages that the kernel can drop at once
count as free.
"""

from __future__ import annotations

from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")


def memory_share(groups: Path = GROUPS) -> float:
    """Used share of the memory, from 0 to 1: of the machine or the container, the fuller one."""
    machine = psutil.virtual_memory()
    share = 1 - machine.available / machine.total
    return round(max(share, _group_share(groups)), 4)


def _group_share(groups: Path) -> float:
    try:
        limit = int((groups / "memory.max").read_text())
        used = int((groups / "memory.current").read_text())
        facts = dict(line.split() for line in (groups / "memory.stat").read_text().splitlines())
        return (used - int(facts.get("inactive_file", 0))) / limit
    except (OSError, ValueError):  # no limit ("max"), or control groups of another version
        return 0.0
