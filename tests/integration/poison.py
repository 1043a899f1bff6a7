"""A vLLM logits processor that kills its process when a prompt holds given token ids.

Named in `engine_args` by the tests; it stands for the rows that really do that to an engine.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor


class Poison(LogitsProcessor):
    """Dies on `additional_config["poison"]`, a list of token ids that follow each other."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._needle = list(vllm_config.additional_config["poison"])

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        for _, _, prompt, _ in batch_update.added if batch_update else ():
            size = len(self._needle)
            if any(prompt[i : i + size] == self._needle for i in range(len(prompt or ()))):
                os.kill(os.getpid(), signal.SIGKILL)

    def apply(self, logits: Any) -> Any:
        return logits
