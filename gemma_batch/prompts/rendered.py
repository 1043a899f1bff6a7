"""Rendered prompts: each kind of prompt with its codec, and the list of all kinds.

A new kind of prompt, such as a prompt with pictures, needs a class that implements `rows.Prompt`,
a `decode` for it, and one entry in `KINDS`. An engine lists in `takes` the kinds that it answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gemma_batch.prompts.prefixes import sort_key
from gemma_batch.rows import Prompt

if TYPE_CHECKING:
    from gemma_batch.spec import Prompt as PromptSpec


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt of text alone: its token ids, with the single BOS that Gemma needs."""

    token_ids: list[int]
    kind: ClassVar[str] = "tokens"

    @property
    def tokens(self) -> int:
        """The length of the prompt in tokens."""
        return len(self.token_ids)

    def sort_key(self) -> bytes:
        """The first token ids as bytes that compare like the numbers."""
        return sort_key(self.token_ids)

    def encode(self) -> bytes:
        """The token ids as four bytes each, in the byte order of this machine."""
        return array("I", self.token_ids).tobytes()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> TokenPrompt:
        """The prompt from the bytes of `encode`. Raises ValueError unless they are 4 per token."""
        ids = array("I")
        ids.frombytes(data)
        return cls(ids.tolist())


def token_ids(prompt: Prompt) -> list[int]:
    """The token ids of a prompt of text alone. Raises TypeError for another kind of prompt."""
    if not isinstance(prompt, TokenPrompt):
        raise TypeError(f"a prompt of the kind {prompt.kind!r} is more than token ids")
    return prompt.token_ids


def kinds_of(prompt: PromptSpec) -> frozenset[str]:
    """The kinds of prompt that rows of a job with this spec can have."""
    return frozenset({TokenPrompt.kind})


Decode = Callable[[bytes | memoryview], Prompt]
KINDS: dict[str, Decode] = {TokenPrompt.kind: TokenPrompt.decode}


def decode_prompt(kind: str, data: bytes | memoryview) -> Prompt:
    """The prompt of a kind from the bytes of its `encode`. Raises KeyError for an unknown kind."""
    return KINDS[kind](data)
