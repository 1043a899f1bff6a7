"""Confidence: how sure the model was of an answer, by the log probabilities of its tokens
(driver and GPU actor).

The engine computes these numbers anyway to choose the tokens. Where the engine enforces a shape, a
token's probability is its share among the tokens that the shape allowed at this place: vLLM leaves
out all others before it computes log probabilities. The sampling temperature does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.answering.answers import Fields, Sample
from gemma_batch.answering.closed_values import closed_spans, has_closed
from gemma_batch.rows import Refusal
from gemma_batch.spec import Answer

Tokens = Sequence[tuple[str, float]]  # text and log probability
LOW = 0.1  # the quantile of the tokens' log probabilities in `low`


class Confidence:
    """Reads the log probabilities of an answer's tokens into the column `confidence`.

    It stands behind the reader of thoughts, whose tokens do not count, and before all others.
    """

    def __init__(self, answer: Answer) -> None:
        self._labels = answer.choice or ()
        schema = answer.schema if isinstance(answer.schema, dict) else None
        self._schema = schema if schema is not None and has_closed(schema) else None

    def fields(self) -> Fields:
        """None."""
        return []

    def details(self) -> Fields:
        """The numbers, as one struct. Null in a dry run, which has no tokens."""
        inner = [("logprob", pa.float64()), ("low", pa.float64())]
        if self._labels:
            inner.append(("label", pa.float64()))
        if self._schema is not None:
            inner.append(("fields", pa.map_(pa.string(), pa.float64())))
        return [("confidence", pa.struct(inner))]

    def asks(self) -> dict[str, Any]:
        """The log probability of each token of the answer, and of no other token."""
        return {"logprobs": 0}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses nothing, and takes nothing out of the text."""
        tokens = _of_text(sample)
        if not tokens:
            return None
        logprobs = [logprob for _, logprob in tokens]
        found: dict[str, Any] = {"logprob": sum(logprobs), "low": quantile(logprobs, LOW)}
        if self._labels:
            found["label"] = self._of_label(sample.text, tokens)
        if self._schema is not None:
            spans = closed_spans(self._schema, sample.text)
            found["fields"] = _probabilities(spans, sample.text, tokens)
        sample.values["confidence"] = found
        return None

    def _of_label(self, text: str, tokens: Tokens) -> float | None:
        # Behind most labels nothing but the end can follow, and models have several tokens for it.
        longer = any(one != text and one.startswith(text) for one in self._labels)
        end = len(text) + longer * sum(len(token) for token, _ in tokens)
        found = _probabilities([("", 0, end)], text, tokens)
        return None if found is None else found[0][1]


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of at least one value, interpolated linearly between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _of_text(sample: Sample) -> Tokens:
    """The tokens from the first one of `sample.text` on, with the end of the turn if it is there.

    Nothing where the text cannot be found among the tokens.
    """
    if sample.text == sample.whole:
        return sample.tokens
    begin = "".join(text for text, _ in sample.tokens).rfind(sample.text)
    at = 0
    for place, (text, _) in enumerate(sample.tokens):
        at += len(text)
        if 0 <= begin < at:
            return sample.tokens[place:]
    return ()


def _probabilities(
    spans: Sequence[tuple[str, int, int]], text: str, tokens: Tokens
) -> list[tuple[str, float]] | None:
    """Name and probability of each of the `spans`: name, begin and end in characters of `text`.

    None where the tokens do not make up the text.
    """
    whole = "".join(token for token, _ in tokens)
    if (at := -whole.find(text)) > 0:
        return None
    sums = {name: 0.0 for name, _, _ in spans}
    for token, logprob in tokens:
        for name, begin, end in spans:
            if at < end and at + len(token) > begin:
                sums[name] += logprob
        at += len(token)
    return [(name, math.exp(total)) for name, total in sums.items()]
