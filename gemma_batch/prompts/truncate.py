"""Cutting document text until a prompt fits.

Only document text is cut, the longest pieces first: all pieces are brought down to one common
length, so two long documents keep half the room each and a short title stays whole. Where to cut is
found from token offsets; then the prompt is rendered and counted again, since text around a cut may
tokenize differently. The trade-off: an over-long row costs a few more tokenizations of a prompt
that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.conversation import Conversation, Place, document
from gemma_batch.prompts.tokens import Tokenizer

Side = Literal["start", "end"]
TRIES = 12
CLOSE = 2  # tokens below the limit at which looking for a better cut ends


@dataclass(frozen=True, slots=True)
class _Piece:
    """A document segment with the characters at which each of its tokens starts and ends."""

    place: Place
    text: str
    offsets: list[tuple[int, int]]

    def keep(self, tokens: int, side: Side) -> str:
        if tokens >= len(self.offsets):
            return self.text
        if tokens == 0:
            return ""
        if side == "end":
            return self.text[: self.offsets[tokens - 1][1]]
        return self.text[self.offsets[len(self.offsets) - tokens][0] :]


def shorten(
    conversation: Conversation, *, limit: int, side: Side, tokenizer: Tokenizer
) -> list[int] | None:
    """Token ids of at most `limit`, with the `side` of documents dropped; None if it cannot fit.

    Also None when no document text at all would be left: an instruction alone asks nothing.
    """
    pieces = []
    emptied = conversation
    for place in conversation.documents():
        # Broken before it is counted: a control token is one token, its broken form several.
        given = document(conversation.at(place))
        (safe,) = neutralise([given], tokenizer.control_pattern)
        pieces.append(_Piece(place, safe.text, tokenizer.offsets(safe.text)))
        emptied = emptied.put(place, "")
    sizes = [len(piece.offsets) for piece in pieces]
    room = limit - len(tokenizer.encode(emptied.text(tokenizer)))
    best: list[int] | None = None
    low, high = 0, sum(sizes) + 1  # document tokens kept: `low` fits, `high` does not
    guess = min(room, high - 1)
    for _ in range(TRIES):
        if not low < guess < high:
            break
        candidate = emptied
        for piece, tokens in zip(pieces, share(guess, sizes), strict=True):
            candidate = candidate.put(piece.place, piece.keep(tokens, side))
        ids = tokenizer.encode(candidate.text(tokenizer))
        if len(ids) > limit:
            high = guess
            guess = max(guess - (len(ids) - limit), low + 1)
            continue
        low = guess
        if any(candidate.at(place).strip() for place in candidate.documents()):
            best = ids
        if limit - len(ids) <= CLOSE:
            break
        guess = min(guess + limit - len(ids), high - 1)
    return best


def share(total: int, sizes: Sequence[int]) -> list[int]:
    """Give each of `sizes` as much of `total` as it needs, the largest ones equal parts.

    The sum is `total`, or the sum of `sizes` where that is less.
    """
    given = [0] * len(sizes)
    by_size = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for position, i in enumerate(by_size):
        given[i] = min(sizes[i], total // (len(sizes) - position))
        total -= given[i]
    return given


def precut(
    conversation: Conversation, *, limit: int, side: Side, tokenizer: Tokenizer
) -> Conversation:
    """Drop what cannot be kept whatever the tokens are: no token is longer than the longest."""
    most = (limit + 1) * tokenizer.longest_token
    for place in conversation.documents():
        text = conversation.at(place)
        if len(text) > most:
            conversation = conversation.put(place, text[:most] if side == "end" else text[-most:])
    return conversation
