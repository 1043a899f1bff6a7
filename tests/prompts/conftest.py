"""Tiny models whose tokenizers behave as Gemma's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_batch.family.tiny import build_tiny_gemma
from gemma_batch.prompts.tokens import Tokenizer
from tests.prompts.helpers import words


@pytest.fixture(scope="session", params=["gemma3", "gemma4"])
def generation(request: pytest.FixtureRequest) -> str:
    """Every test that asks for it runs for both kinds of turn tokens."""
    return str(request.param)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model folder of each generation."""
    base = tmp_path_factory.mktemp("tiny")
    texts = [words(200, seed) for seed in range(50)]
    return {
        name: build_tiny_gemma(base / name, generation=name, texts=texts, vocab=2048)
        for name in ("gemma3", "gemma4")
    }


@pytest.fixture(scope="session")
def folder(folders: dict[str, Path], generation: str) -> Path:
    return folders[generation]


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def gemma3(folders: dict[str, Path]) -> Tokenizer:
    return Tokenizer.from_folder(folders["gemma3"])
