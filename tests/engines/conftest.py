"""What the tests of engines share: the answers of the vLLM that is installed here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines.programs import seen_by


@pytest.fixture(scope="session")
def theirs(model: str) -> dict[str, Any]:
    """The answers of `asked_vllm`: importing vLLM takes seconds, so it is asked once."""
    return seen_by("asked_vllm", model)
