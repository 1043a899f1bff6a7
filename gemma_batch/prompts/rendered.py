"""Rendered prompts: each kind of prompt with its own codec, and the list of the kinds.

A new kind (one with pictures, say) is a class as `rows.Prompt` describes it, with a `decode`, and
one entry in `KINDS`; an engine then says in `takes` that it answers the kind.
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
    """A prompt of text alone: its token ids, with the one BOS that Gemma wants."""

    token_ids: list[int]
    kind: ClassVar[str] = "tokens"

    @property
    def tokens(self) -> int:
        """Its length."""
        return len(self.token_ids)

    def sort_key(self) -> bytes:
        """Its first token ids as bytes that compare as the numbers do."""
        return sort_key(self.token_ids)

    def encode(self) -> bytes:
        """Four bytes a token, in the byte order of this machine."""
        return array("I", self.token_ids).tobytes()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> TokenPrompt:
        """The inverse of `encode`. Raises ValueError when the length is no multiple of four."""
        ids = array("I")
        ids.frombytes(data)
        return cls(ids.tolist())


def token_ids(prompt: Prompt) -> list[int]:
    """The token ids of a prompt of text alone. Raises TypeError for another kind of prompt."""
    if not isinstance(prompt, TokenPrompt):
        raise TypeError(f"a prompt of the kind {prompt.kind!r} is more than token ids")
    return prompt.token_ids


def kinds_of(prompt: PromptSpec) -> frozenset[str]:
    """The kinds of prompt that rows of a job with this spec may become."""
    return frozenset({TokenPrompt.kind})


Decode = Callable[[bytes | memoryview], Prompt]
KINDS: dict[str, Decode] = {TokenPrompt.kind: TokenPrompt.decode}


def decode_prompt(kind: str, data: bytes | memoryview) -> Prompt:
    """The prompt of a kind that `encode` made. Raises KeyError for a kind that is not listed."""
    return KINDS[kind](data)
