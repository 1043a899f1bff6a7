"""Small translations of what vLLM says, without importing vLLM (GPU actor)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def refusals(exceptions: Any) -> tuple[type[Exception], ...]:
    """The errors of vLLM about what it was given."""
    # Of these two errors, older versions of vLLM have only the second.
    named = ("VLLMClientError", "VLLMValidationError")
    classes = [getattr(exceptions, name, None) for name in named]
    return (ValueError, TypeError, *(c for c in classes if c is not None))


def logprobs_of(positions: Any) -> Iterator[list[dict[str, Any]]]:
    """For each token of an answer, the log probabilities that vLLM gave."""
    for position in positions or ():
        yield [
            {"id": token, "token": item.decoded_token, "logprob": item.logprob, "rank": item.rank}
            for token, item in position.items()
        ]


def token_logprobs(sample: Any) -> Iterator[tuple[str, float]]:
    """The text and the log probability of each token of an answer."""
    for token, position in zip(sample.token_ids, sample.logprobs or (), strict=False):
        yield position[token].decoded_token or "", position[token].logprob
