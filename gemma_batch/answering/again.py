"""Again: the next request for a row whose answer does not have the shape of the job (GPU actor).

A model that draws its tokens gets the same prompt with another seed. A model that always takes the
most likely token would give the same answer again: it is shown its answer, and why the answer was
refused, as a further turn of the conversation. What the model wrote is treated like a document: a
control token in it stays text. The trade-off: the tokenizer is loaded in the GPU actor, at the
first refused answer that needs it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemma_batch.engines.base import REASONING, EngineConfig, engine_class
from gemma_batch.errors import FailureCode
from gemma_batch.prompts.chat import END_OF_THOUGHT, OPEN_THOUGHT
from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.conversation import document, literal
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.prompts.tokens import TextTokenizer, Tokenizer
from gemma_batch.rows import Completion, Refusal, Request

REPLY = "This answer was not accepted: {message}. Answer again."
GREEDY = 1e-5  # the temperature below which vLLM takes the most likely token
LONGEST_SEED = 2**63 - 1
MESSAGE_CHARACTERS = 500  # of the error that the model is shown


class Again:
    """Makes the next request for a refused answer: an `AskAgain` of the feed.

    A row is asked again at most `retries` times. `config` returns the engine's configuration, of
    which `model` is a local folder by the time of the first answer.
    """

    def __init__(self, config: Callable[[], EngineConfig], *, retries: int) -> None:
        self._config, self._retries = config, retries

    async def __call__(
        self, request: Request, answer: Completion, refusal: Refusal, refused: int
    ) -> Request | Refusal:
        """The next request, or the refusal of a row that is given up.

        `request` is the one that was answered; `refused` counts the refused answers, from 1.
        """
        if not refusal.again or refused > self._retries:
            return refusal
        config = self._config()
        own = {**config.sampling, **request.sampling}
        if refusal.code != FailureCode.INVALID_ANSWER or not engine_class(config.engine).computes:
            return request  # it is not the model's fault, or there is no model
        if len(answer.outputs) > 1 or not await asyncio.to_thread(_greedy, config.model, own):
            return reseeded(request, own, refused)
        # In a thread: a tokenizer takes seconds to load, and the engine must not wait for it.
        room = config.max_model_len - int(own.get("max_tokens", 1))
        thinking = REASONING in config.args
        return await asyncio.to_thread(
            _shown, config.model, request, answer, refusal, room, thinking
        )


def _greedy(folder: str, own: Mapping[str, Any]) -> bool:
    """Whether a model gives the same answer each time, whatever the seed.

    `own` are a row's sampling parameters together with the job's; others are those of the model.
    """
    path = Path(folder, "generation_config.json")
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    sampling = {**found, **own}
    temperature, top_k = sampling.get("temperature"), sampling.get("top_k")
    return (temperature is not None and temperature < GREEDY) or top_k == 1


def _shown(
    folder: str,
    request: Request,
    answer: Completion,
    refusal: Refusal,
    room: int,
    thinking: bool,
) -> Request | Refusal:
    made = Tokenizer.from_folder(folder)
    return shown(request, answer, refusal, tokenizer=made, room=room, thinking=thinking)


def reseeded(request: Request, own: Mapping[str, Any], refused: int) -> Request:
    """The request with a seed of its own for this attempt; without a seed it is drawn anew anyway.

    `own` are the row's sampling parameters together with the job's.
    """
    seed = own.get("seed")
    if seed is None:
        return request
    digest = hashlib.blake2b(f"{seed} {refused}".encode(), digest_size=8).digest()
    new = int.from_bytes(digest, "big") & LONGEST_SEED
    return replace(request, sampling={**request.sampling, "seed": new})


def shown(
    request: Request,
    answer: Completion,
    refusal: Refusal,
    *,
    tokenizer: TextTokenizer,
    room: int,
    thinking: bool = False,
) -> Request | Refusal:
    """The request with a further turn: the answer, and why it was refused. At most `room` tokens.

    The end of the answer is left out where it does not fit. Where not even its first token fits,
    the refusal, with the reason. Thoughts are not shown again; with `thinking`, the model thinks
    anew.
    """
    around = tokenizer.chat.further_turn(thinking=thinking)
    if around is None or not isinstance(request.prompt, TokenPrompt):
        return _given_up(refusal, "this model cannot be shown its answer")
    before, opened = request.prompt.token_ids, tokenizer.encode(OPEN_THOUGHT)[1:]
    close, said = "", answer.text
    if thinking:
        _, end, said = said.rpartition(END_OF_THOUGHT)
        if before[-len(opened) :] == opened:  # the prompt ends inside a thought: so does the next
            around, close = (around[0], around[1] + OPEN_THOUGHT), END_OF_THOUGHT
            said = said if end else ""
    # Control tokens are broken before counting: a broken control token is several tokens.
    (safe,) = neutralise([document(said.strip())], tokenizer.control_pattern)
    ends = [end for _, end in tokenizer.offsets(safe.text)]
    keep = len(ends)
    while keep >= min(1, len(ends)):
        text = safe.text[: ends[keep - 1]] if keep else ""
        ids = [*before, *_turn(close, text, refusal.message, around, tokenizer)]
        if len(ids) <= room:
            return replace(request, prompt=TokenPrompt(ids))
        keep -= len(ids) - room
    return _given_up(refusal, f"its answer and the reason do not fit into {room:,} tokens")


def _turn(
    close: str, text: str, message: str, around: tuple[str, str], tokenizer: TextTokenizer
) -> list[int]:
    """The tokens behind a prompt of the answer `text` and a reply that says `message`.

    `close` ends the thought that the prompt has opened.
    """
    begin, _, end = REPLY.partition("{message}")
    end += around[1]
    segments = [
        literal(close),
        document(text),
        literal(around[0] + begin),
        document(message[:MESSAGE_CHARACTERS]),
        literal(end),
    ]
    safe = neutralise(segments, tokenizer.control_pattern)
    return tokenizer.encode("".join(segment.text for segment in safe))[1:]  # without BOS


def _given_up(refusal: Refusal, why: str) -> Refusal:
    return replace(refusal, message=f"{refusal.message}; not asked again: {why}")
