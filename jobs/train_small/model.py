"""Model: the folder of a Gemma 3 with a tokenizer of its own, as transformers and vLLM read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemma_batch.family.tiny import (
    gemma_config,
    generation_config,
    train_tokenizer,
    write_json,
    write_tokenizer,
)
from jobs.train_small.labels import LANGUAGES, prompt_for
from jobs.train_small.messages import Message
from jobs.train_small.sizes import Size

MAX_POSITION = 2048  # tokens; a message of 200 characters is at most about 250
CHARS = 50_000  # characters of each language that the tokenizer learns from
FREQUENT = 1000  # times that the tokenizer sees the words of each prompt, so that they are tokens


def write_model_files(folder: Path, size: Size, messages: list[Message]) -> dict[str, Any]:
    """Write everything except the weights into `folder`; the content of config.json.

    The tokenizer learns from equally many characters of each language.
    """
    tokenizer = train_tokenizer("gemma3", _vocabulary_texts(messages), size.vocab, 2**31)
    missing = [code for code in LANGUAGES if code not in tokenizer["model"]["vocab"]]
    if missing:
        raise ValueError(f"no tokens for the languages {missing}: raise FREQUENT or `vocab`")
    config = gemma_config(
        "gemma3",
        tokenizer,
        layers=size.layers,
        hidden=size.hidden,
        ffn=size.ffn,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        sliding_window=512,
        max_position=MAX_POSITION,
        dtype="bfloat16",
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config(config))
    write_tokenizer(folder, "gemma3", tokenizer, MAX_POSITION)
    return config


def _vocabulary_texts(messages: list[Message]) -> Iterator[str]:
    words = [*LANGUAGES, "user", "model", *prompt_for("").split("\n\n")]
    yield "\n".join(FREQUENT * [word for word in words if word])
    left = dict.fromkeys(LANGUAGES, CHARS)
    for message in messages:
        if left[message.language] > 0:
            left[message.language] -= len(message.text)
            yield message.text + "\n"
