"""Programs that look at a real vLLM in a process of their own, and print what they saw."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.integration.helpers import environment


def seen_by(program: str, model: str) -> dict[str, Any]:
    """The record of `python -m tests.engines.PROGRAM MODEL`: the last line that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.engines.{program}", model],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
