"""Fixtures of the tests of recipes: the folder of the real Gemma 3 270M, where it could be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.real_gemma import fetch, folder
from jobs.real_gemma.__main__ import OUT

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real() -> str:
    """The model folder of `make real`, or that in GEMMA_BATCH_REAL_MODEL; else the test skips."""
    named = os.environ.get("GEMMA_BATCH_REAL_MODEL")
    place = Path(named) if named else ROOT / OUT / "model"
    if not folder.is_made(place, fetch.GGUF_SHA256):
        if named:
            pytest.fail(f"GEMMA_BATCH_REAL_MODEL={named!r} is no whole folder of `make real`")
        pytest.skip(f"no real Gemma 3 270M in {str(place)!r}: `make real` gets it (238 MB)")
    return str(place)
