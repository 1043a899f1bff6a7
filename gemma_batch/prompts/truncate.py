"""Cutting document text until a prompt fits.

Only document text is cut, the longest piece first, and as little of it as possible: the place of
the cut is found from token offsets, then the prompt is rendered and counted again, since text
around a cut may tokenize differently. The trade-off: one over-long row costs a few more
tokenizations of a prompt that fits.
"""

from __future__ import annotations

from typing import Literal

from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.conversation import Conversation, Place, document
from gemma_batch.prompts.tokens import Tokenizer

Side = Literal["start", "end"]
TRIES = 12
CLOSE = 2  # tokens below the limit at which looking for a better cut ends


def shorten(
    conversation: Conversation, *, limit: int, side: Side, tokenizer: Tokenizer
) -> list[int] | None:
    """Token ids of at most `limit`, with the `side` of documents dropped; None if it cannot fit.

    Also None when no document text at all would be left: an instruction alone asks nothing.
    """
    for place in conversation.documents():
        emptied = conversation.put(place, "")
        ids = tokenizer.encode(emptied.text(tokenizer))
        if len(ids) < limit:
            return _fill(conversation, emptied, place, len(ids), limit, side, tokenizer)
        if len(ids) == limit:
            return ids if any(emptied.at(x).strip() for x in emptied.documents()) else None
        conversation = emptied
    return None


def _fill(
    conversation: Conversation,
    emptied: Conversation,
    place: Place,
    without: int,
    limit: int,
    side: Side,
    tokenizer: Tokenizer,
) -> list[int] | None:
    """Keep as much of the text at `place` as fits beside the `without` tokens of the rest."""
    text = precut(conversation.at(place), limit=limit, side=side, tokenizer=tokenizer)
    (safe,) = neutralise([document(text)], tokenizer.control_pattern)
    offsets = tokenizer.offsets(safe.text)
    best: list[int] | None = None
    low, high = 0, len(offsets) + 1  # tokens kept: `low` fits, `high` is known or taken not to
    guess = min(limit - without, len(offsets))
    for _ in range(TRIES):
        if guess <= low or guess >= high:
            break
        kept = _keep(safe.text, offsets, guess, side)
        candidate = emptied.put(place, kept)
        ids = tokenizer.encode(candidate.text(tokenizer))
        if len(ids) > limit:
            high = guess
            guess = max(guess - (len(ids) - limit), low + 1)
            continue
        low = guess
        if any(candidate.at(x).strip() for x in candidate.documents()):
            best = ids
        if limit - len(ids) <= CLOSE:
            break
        guess = min(guess + limit - len(ids), high - 1)
    return best


def _keep(text: str, offsets: list[tuple[int, int]], tokens: int, side: Side) -> str:
    if side == "end":
        return text[: offsets[tokens - 1][1]]
    return text[offsets[len(offsets) - tokens][0] :]


def precut(text: str, *, limit: int, side: Side, tokenizer: Tokenizer) -> str:
    """Drop what cannot be kept whatever the tokens are: no token is longer than the longest."""
    most = (limit + 1) * tokenizer.longest_token
    if len(text) <= most:
        return text
    return text[:most] if side == "end" else text[-most:]
