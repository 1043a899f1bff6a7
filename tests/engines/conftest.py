"""What the tests of engines share: the answers of the vLLM that is installed here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.helpers import environment


@pytest.fixture(scope="session")
def theirs(model: str) -> dict[str, Any]:
    """The answers of `asked_vllm`: importing vLLM takes seconds, so it is asked once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.asked_vllm", model],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
