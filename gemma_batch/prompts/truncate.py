"""Truncate: cuts document text until a prompt fits.

Only document text is cut, the longest pieces first. All pieces longer than one common length are
cut to that length: two long documents keep half the room each, and a short title stays whole. The
offsets of tokens show where to cut. Then the prompt is rendered and counted again, because the
text around a cut may have other tokens. The trade-off: for a row that is too long, a prompt that
fits is tokenized a few more times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.conversation import Conversation, Place, document
from gemma_batch.prompts.tokens import TextTokenizer

Side = Literal["start", "end"]
TRIES = 12
CLOSE = 2  # a prompt within so many tokens of the limit is good enough


@dataclass(frozen=True, slots=True)
class _Piece:
    """A document segment, with the start and the end of each of its tokens in characters."""

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
    conversation: Conversation, *, limit: int, side: Side, tokenizer: TextTokenizer
) -> list[int] | None:
    """The token ids of the shortened prompt, at most `limit`; None when it cannot fit.

    `side` is the side of the documents that is dropped. The answer is also None when no document
    text would be left, because an instruction without a document asks nothing.
    """
    pieces = []
    emptied = conversation
    for place in conversation.documents():
        # Control tokens are broken before counting: a broken control token is several tokens.
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
    """Share out `total`: small sizes get all that they need, the largest sizes get equal parts.

    The sum is the smaller of `total` and the sum of `sizes`.
    """
    given = [0] * len(sizes)
    by_size = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for position, i in enumerate(by_size):
        given[i] = min(sizes[i], total // (len(sizes) - position))
        total -= given[i]
    return given


def precut(
    conversation: Conversation, *, limit: int, side: Side, tokenizer: TextTokenizer
) -> Conversation:
    """Drop document text that cannot fit in any case: more characters than `limit` tokens hold.

    No token has more characters than `tokenizer.longest_token`.
    """
    most = (limit + 1) * tokenizer.longest_token
    for place in conversation.documents():
        text = conversation.at(place)
        if len(text) > most:
            conversation = conversation.put(place, text[:most] if side == "end" else text[-most:])
    return conversation
