"""A tiny model for planning and preparing without engines."""

from __future__ import annotations

import pytest

from gemma_batch.family.tiny import build_tiny_gemma

WORDS = "the quick brown fox jumps over the lazy dog while five wizards box a hundred times"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny Gemma 3."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return str(build_tiny_gemma(folder, texts=[WORDS] * 50, vocab=600))
