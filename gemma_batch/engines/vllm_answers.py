"""Completions of what vLLM answers, without importing vLLM (GPU actor)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gemma_batch.engines.base import EngineConfig
from gemma_batch.errors import RowTransient
from gemma_batch.rows import Completion, Mark

# Control tokens that a tokenizer may not call special.
_CONTROL = re.compile(r"<\|.+>|<.+\|>|<(?:start|end)_\w+>|<escape>")


def completion_of(final: Any, config: EngineConfig, seconds: float, tokenizer: Any) -> Completion:
    """The completion of a request that vLLM has ended, after `seconds`.

    `tokenizer` is vLLM's, or None for an answer without control tokens in its text. Raises
    `RowTransient` when there is no answer.
    """
    if final is None or not final.outputs:
        raise RowTransient("vLLM ended the request without an output")
    samples = sorted(final.outputs, key=lambda sample: sample.index)
    reasons = [sample.finish_reason or "unknown" for sample in samples]
    # With a shape, "error" means that no token could follow: that does not pass by waiting.
    broken = {"abort"} if config.structured else {"abort", "error"}
    if not broken.isdisjoint(reasons):
        raise RowTransient(f"vLLM ended the request with {reasons!r}")
    logprobs, of_tokens = None, []
    if config.token_logprobs:
        of_tokens = [list(token_logprobs(sample)) for sample in samples]
    elif any(sample.logprobs for sample in samples):
        logprobs = json.dumps([list(logprobs_of(sample.logprobs)) for sample in samples])
    marks = []
    if tokenizer is not None:
        decode = functools.partial(tokenizer.decode, skip_special_tokens=False)
        control = control_tokens_of(tokenizer)
        marks = [marks_of(one.text, one.token_ids, control, decode) for one in samples]
    return Completion(
        outputs=[sample.text for sample in samples],
        finish_reasons=reasons,
        prompt_tokens=len(final.prompt_token_ids or ()),
        completion_tokens=sum(len(sample.token_ids) for sample in samples),
        cached_tokens=final.num_cached_tokens or 0,
        seconds=seconds,
        logprobs=logprobs,
        token_logprobs=of_tokens,
        marks=marks,
    )


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


@functools.lru_cache(maxsize=2)
def control_tokens_of(tokenizer: Any) -> dict[int, str]:
    """The control tokens of a tokenizer of transformers: id -> text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        number: str(token.content)
        for number, token in added.items()
        if token.special or _CONTROL.fullmatch(token.content)
    }


def marks_of(
    text: str,
    token_ids: Sequence[int],
    control: Mapping[int, str],
    decode: Callable[[list[int]], str],
) -> list[Mark]:
    """The control tokens in the text of an answer, in their order.

    `decode` makes text of token ids, and shows control tokens. The text may end before the tokens
    do: a stop string, and the token at which an answer ends, are left out.
    """
    found: list[Mark] = []
    at = done = 0  # the place in the text of the token `done`
    for number, token in enumerate(token_ids):
        if (mark := control.get(token)) is None:
            continue
        start = at + len(decode(list(token_ids[done:number])))
        if not text.startswith(mark, start):  # bytes that are no text may count otherwise
            start = text.find(mark, at)
        if start < 0:
            break
        at, done = start + len(mark), number + 1
        found.append(Mark(start, at, number))
    return found
