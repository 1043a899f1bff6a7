"""Invented documents and a renderer with usual arguments."""

from __future__ import annotations

import random
from typing import Any

from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.tokens import Tokenizer


def words(count: int, seed: int = 0) -> str:
    """A text of `count` invented words, with lines."""
    rng = random.Random(seed)
    return "".join(
        "".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) + rng.choice("     \n")
        for _ in range(count)
    ).strip()


def make(tokenizer: Tokenizer, **changes: Any) -> Renderer:
    """A renderer with a plain prompt, and what a test changes about it."""
    given: dict[str, Any] = {
        "system": None,
        "user": "Summarise this.\n\n{{ body }}",
        "messages": None,
        "params": None,
        "overlong": "fail",
        "max_model_len": 512,
        "max_tokens": 64,
    }
    return Renderer(tokenizer=tokenizer, **(given | changes))
