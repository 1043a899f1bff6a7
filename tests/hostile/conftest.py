"""Tokenizers of two generations, whose control tokens are spelled differently."""

from __future__ import annotations

import pytest

from gemma_batch.family.tiny import build_tiny_gemma
from gemma_batch.prompts.tokens import Tokenizer

WORDS = "the quick brown fox jumps over a lazy dog while start of turn model user end channel"


@pytest.fixture(scope="session", params=["gemma3", "gemma4"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """Every test that asks for it runs for both kinds of turn tokens."""
    folder = tmp_path_factory.mktemp("hostile") / str(request.param)
    texts = [f"{WORDS} {i}\n" * 5 for i in range(50)]
    build_tiny_gemma(folder, generation=request.param, texts=texts, vocab=1024)
    return Tokenizer.from_folder(folder)
