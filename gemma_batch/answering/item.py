"""Item: one row in the feed, from its request to its outcome (GPU actor)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gemma_batch.answering.load import Load
from gemma_batch.engines.base import Engine
from gemma_batch.rows import Completion, Failure, Outcome, Refusal, Request

# Makes the next request for a row: of the request that was answered, the answer, why it was
# refused, and for which time, from 1. Or tells why the row is given up.
AskAgain = Callable[[Request, Completion, Refusal, int], Awaitable[Request | Refusal]]


@dataclass(slots=True, eq=False)
class Item:
    """A row in the feed. It came with the rows of `load`.

    `asking` is the request of the next attempt; it differs from `request`, the row as it came,
    after a refused answer. `again` is the cause of the next attempt, if there is one. `transient`
    counts attempts that failed for a reason that may pass, `refused` answers without the shape.
    `wasted` are the tokens of refused answers and their prompts.
    """

    request: Request
    done: asyncio.Future[Outcome]
    asking: Request
    load: Load
    attempts: int = 0
    first: float = 0.0
    engine: Engine | None = None
    again: str = "engine_lost"
    transient: int = 0
    refused: int = 0
    wasted: int = 0

    @classmethod
    def of(cls, request: Request, done: asyncio.Future[Outcome], load: Load) -> Item:
        """The item of a row that was not tried yet."""
        return cls(request, done, asking=request, load=load)

    def refuse(self, answer: Completion) -> None:
        """Count an answer that was refused."""
        self.refused += 1
        self.wasted += answer.prompt_tokens + answer.completion_tokens

    def end(self, outcome: Outcome) -> int:
        """Note when the row was in the engine. Returns how many rows are no longer in hand."""
        outcome.ended = time.time()
        outcome.began = outcome.ended - (time.monotonic() - self.first)
        return self.load.end()

    def accepted(self, answer: Completion) -> Completion:
        """The outcome of a row with an answer of the right shape."""
        answer.attempts, answer.refused_tokens = self.attempts, self.wasted
        return answer

    def failure(self, code: str, message: str, *, output: str | None = None) -> Failure:
        """The outcome of a row without an answer. `output` is the text of a refused answer."""
        return Failure(
            str(code),
            message,
            self.attempts,
            time.monotonic() - self.first,
            output=output,
            refused_tokens=self.wasted,
        )
