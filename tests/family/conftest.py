"""Real config.json contents (shortened as the published ones are) for the family tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def configs() -> dict[str, dict[str, Any]]:
    """config.json of every model of the catalog that is not a variant."""
    found: dict[str, dict[str, Any]] = json.loads(
        (Path(__file__).parent / "configs.json").read_text("utf-8")
    )
    return found
