"""A vLLM logits processor that kills its process when a prompt holds given token ids.

Named in `engine_args` by tests and benchmarks; it stands for the rows that really do that to an
engine. Its settings are vLLM's `additional_config`:

    poison   token ids that follow each other; a prompt with them is one that kills
    memory   true: the process runs out of memory instead of being killed
    tally    a file that grows by one byte per engine start
"""

from __future__ import annotations

import os
import resource
import signal
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor

ROOM = 2**30  # bytes beyond what the process has; small enough to leave the machine alone


class Poison(LogitsProcessor):  # type: ignore[misc]  # vllm is not typed
    """See the module's docstring."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        settings = vllm_config.additional_config
        self._needle = list(settings["poison"])
        self._memory = bool(settings.get("memory"))
        if path := settings.get("tally"):
            with open(path, "ab") as tally:
                tally.write(b".")

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        for _, _, prompt, _ in batch_update.added if batch_update else ():
            size = len(self._needle)
            if any(prompt[i : i + size] == self._needle for i in range(len(prompt or ()))):
                if self._memory:
                    run_out_of_memory()
                os.kill(os.getpid(), signal.SIGKILL)

    def apply(self, logits: Any) -> Any:
        return logits


def run_out_of_memory() -> None:
    """Take memory until there is no more. Raises MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, resource.RLIM_INFINITY))
    hoard = []
    while True:
        hoard.append(bytearray(64 * 2**20))
