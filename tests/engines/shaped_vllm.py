"""A program that has a real vLLM answer with labels, and writes down each attempt.

`python -m tests.engines.shaped_vllm MODEL` prints what it saw as JSON, by the row's number.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from gemma_batch.answering.host import Host
from gemma_batch.answering.shapes import shape_of
from gemma_batch.engines import base, vllm
from gemma_batch.engines.vllm import VllmEngine, completion_of
from gemma_batch.prompts.rendered import TokenPrompt, token_ids
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.rows import Completion, Request
from gemma_batch.spec import Answer
from gemma_batch.units.asked import Asked
from tests.engines.asked_vllm import config_for

LABELS = ("yes", "yet", "a label that takes many more tokens than the others")
MOST = 4  # tokens: too few for the longest label
RETRIES = 1
ROWS = 24
SAMPLED, STUCK = 100, 101  # rows that are drawn with a seed, and rows that no token can follow
SEED = 7

SEEN: dict[int, list[dict[str, Any]]] = {}
WRITTEN: dict[int, list[int]] = {}  # the token ids of an answer on its way


class Recorded(VllmEngine):
    """vLLM, with a record of what it was asked and what it said."""

    async def generate(self, request: Request) -> Completion:
        answer = await super().generate(request)
        SEEN.setdefault(request.number, []).append(
            {
                "ids": token_ids(request.prompt),
                "sampling": request.sampling,
                "text": answer.text,
                "reason": answer.finish_reasons[0],
                "tokens": answer.token_logprobs[0],
                "written": WRITTEN.pop(id(answer)),
            }
        )
        return answer


def recorded(final: Any, *more: Any) -> Completion:
    """What vLLM said, as the engine reads it, with a record of the token ids."""
    answer = completion_of(final, *more)
    WRITTEN[id(answer)] = list(final.outputs[0].token_ids)
    return answer


def question(number: int) -> str:
    """The text of a row."""
    return f"Is {number} an even number? Think of {number + 1} and {number * 7}."


def main(model: str) -> None:
    """Answer all rows, and print."""
    vllm.completion_of = recorded
    base.REGISTRY["vllm"] = "tests.engines.shaped_vllm:Recorded"
    asked = Asked(answer=Answer(choice=LABELS, confidence=True, retries=RETRIES))
    sampling = {"temperature": 0, "max_tokens": MOST}
    shape = shape_of(sampling, asked)
    config = config_for(
        model,
        max_model_len=512,
        max_num_seqs=16,
        max_num_batched_tokens=512,
        dtype="float32",
        cpu_kv_cache_gib=1,
        structured=True,
        token_logprobs=True,
        sampling={**sampling, **shape.asks()},
    )
    tokenizer = Tokenizer.from_folder(model)

    def request(number: int, **own: Any) -> Request:
        prompt = tokenizer.chat.render([{"role": "user", "content": question(number)}])
        return Request(number, TokenPrompt(tokenizer.encode(prompt)), own)

    rows = [request(number) for number in range(ROWS)]
    rows.append(request(SAMPLED, temperature=1.0, seed=SEED, max_tokens=1))
    comma = tokenizer.encode(",")[-1]
    rows.append(request(STUCK, allowed_token_ids=[comma]))
    host = Host(config, in_flight=16, check=shape.check, retries=RETRIES)
    try:
        outcomes = host.run(rows)
    finally:
        host.close()
    found = {}
    for number, outcome in outcomes.items():
        found[number] = {
            "attempts": SEEN[number],
            "counted": outcome.attempts,
            "values": outcome.values if isinstance(outcome, Completion) else None,
            "code": None if isinstance(outcome, Completion) else outcome.code,
            "message": "" if isinstance(outcome, Completion) else outcome.message,
            "output": None if isinstance(outcome, Completion) else outcome.output,
        }
    print(json.dumps({"rows": found, "retries": host.stats.retries}))


if __name__ == "__main__":
    # The registry imports this file under its name, and that module has the record.
    importlib.import_module("tests.engines.shaped_vllm").main(sys.argv[1])
