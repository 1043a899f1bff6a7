"""A program that asks one vLLM engine with a tiny Gemma 4 for calls, thoughts and text.

`python -m tests.engines.shaped_gemma4 MODEL` prints the columns of each answer, or its refusal, as
JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from typing import Any

from gemma_batch.answering.shapes import shape_of
from gemma_batch.engines.base import REASONING, EngineConfig
from gemma_batch.engines.vllm import VllmEngine
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reading.own_params import OwnParams
from gemma_batch.reading.prepare import renderer_of
from gemma_batch.rows import Request, Row
from gemma_batch.spec import Answer, Prompt, Tools
from gemma_batch.units.asked import Asked

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Oslo", "Rome"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
    },
}
TOOLS = Tools(definitions=(WEATHER, {"name": "stop_now"}), choice="required")
GEMMA4 = Asked(generation="gemma4", calls="gemma4", thinks=True)
LABELS = ("yes", "no", "perhaps")
BUDGET = {"thinking_token_budget": 12}  # the tokens with which the prompt opens the thought count
# What is asked of the answers, and sampling parameters.
CASES: dict[str, tuple[Asked, dict[str, Any]]] = {
    "text": (GEMMA4, {}),
    "calls": (dataclasses.replace(GEMMA4, tools=TOOLS), {}),
    "thoughts": (
        dataclasses.replace(GEMMA4, thinking=True, answer=Answer(choice=LABELS)),
        {**BUDGET, "n": 2, "temperature": 1.0, "seed": 7},
    ),
    "thoughts and calls": (dataclasses.replace(GEMMA4, tools=TOOLS, thinking=True), BUDGET),
    "cut off": (
        dataclasses.replace(GEMMA4, thinking=True, answer=Answer(choice=LABELS)),
        {"max_tokens": 8},
    ),
}


async def main(model: str) -> None:
    """Ask everything, and print the answers."""
    job = {"max_tokens": 100, "temperature": 0}
    config = EngineConfig(
        engine="vllm",
        model=model,
        device="cpu",
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=4,
        max_num_batched_tokens=1024,
        cpu_kv_cache_gib=1,
        structured=True,
        sampling=job,
        args={REASONING: "gemma4"},
    )
    tokenizer = Tokenizer.from_folder(model)
    own = OwnParams(engine="vllm", job=job, args=config.args, vocab=5000)
    engine = VllmEngine(config)
    await engine.start()
    found: dict[str, Any] = {}
    for name, (asked, more) in CASES.items():
        shape = shape_of({**job, **more}, asked)
        renderer = renderer_of(
            Prompt(user="{{ x }}"), tokenizer, max_model_len=1024, own_params=own, asked=asked
        )
        (request,) = renderer.render_rows([Row(0, {"x": "What is it?"})])
        assert isinstance(request, Request)
        sampling = {**shape.asks(), **more}
        if asked.thinking:
            # A model that says random words may not end its answer in a thought. Behind the shape,
            # nothing but the end is allowed.
            ends = [tokenizer.eos_id, tokenizer.token_id("<turn|>")]
            sampling["logit_bias"] = dict.fromkeys(ends, -100.0)
        request = dataclasses.replace(request, sampling=sampling)
        completion = await engine.generate(request)
        raw = list(completion.outputs)
        refusal = shape.check(completion, request)
        columns = {n: v[0] for n, v in shape.columns([completion]).items()} if not refusal else {}
        found[name] = {
            **columns,
            "raw": raw,
            "refusal": refusal and refusal.message,
            "completion_tokens": completion.completion_tokens,
        }
    await engine.stop()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
