"""Guess: stands in for a model's tokenizer when the model's files are not at hand (driver, laptop).

The conversation format is that of the model's generation. Four characters count as one token. A
plan without files so renders rows by the same code as a run, and differs from it only in lengths.
"""

from __future__ import annotations

import re
import zlib

from gemma_batch.prompts.chat import BOS, EOS, ChatTemplate, default_chat_template
from gemma_batch.prompts.control import control_pattern

CHARACTERS_PER_TOKEN = 4
_TURNS = ("<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>")
_CALLS = (
    "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    '<|"|>', "<|channel>", "<channel|>", "<|think|>",
)  # fmt: skip


class GuessedTokenizer:
    """A stand-in with the methods of `Tokenizer` that a renderer needs (`TextTokenizer`).

    `generation` is Gemma's. With `chat_template` False, prompts are plain text, as for a model
    that was not trained on conversations. Raises `SpecError` for an unknown generation.
    """

    longest_token = CHARACTERS_PER_TOKEN

    def __init__(self, generation: str, *, chat_template: bool = True) -> None:
        self.chat = default_chat_template(generation) if chat_template else ChatTemplate(None)
        self.control_pattern: re.Pattern[str] = control_pattern([BOS, EOS, *_TURNS, *_CALLS])

    def encode(self, text: str) -> list[int]:
        """A number for each four characters: the same number for the same characters."""
        return [zlib.crc32(text[a:b].encode()) for a, b in self.offsets(text)]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same as `encode` for many texts."""
        return [self.encode(text) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The start and the end of each guessed token, in characters."""
        step = CHARACTERS_PER_TOKEN
        return [(i, min(i + step, len(text))) for i in range(0, len(text), step)]
