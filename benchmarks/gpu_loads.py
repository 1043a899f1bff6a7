"""Loads of token ids, and the contenders that answer them in a process of their own.

Loads are random, but the same for the same name, number of rows and seed:

equal    every prompt and every answer has the same length
long     as many tokens out as in
tail     output lengths log-normal, so that a few rows take many times as long as most
prefix   a few long prefixes, interleaved; each row is a prefix and a tail of its own

Prompts start with the beginning-of-sequence token and share nothing else, except in `prefix`.
Random ids defeat no cache by chance: two prompts never have a block of 16 ids in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gemma_batch.prompts.rendered import TokenPrompt, token_ids
from gemma_batch.rows import Failure, Request

BOS = 2
FIRST_WORD = 256  # ids from here on are words, below are special and unused ones
FEED_FACTOR = 2.0  # that of planning/route_plan.py, which needs more packages than this program may
WARM_ROWS, WARM_TOKENS, WARM_SEED = 64, 16, 1_000_000
Scale = Literal["full", "tiny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Lengths in tokens. `output` is every row's length, or with `sigma` the tail's median."""

    prompt: int
    output: int
    sigma: float = 0.0
    shortest: int = 0
    longest: int = 0
    prefixes: int = 0
    prefix: int = 0  # tokens of `prompt` that are shared, a multiple of a cache block

    @property
    def most(self) -> int:
        """The longest answer of a row."""
        return self.longest or self.output

    @property
    def mean_output(self) -> float:
        """About how long an answer is; what a load really asks for is `output_tokens`."""
        return self.output * math.exp(self.sigma**2 / 2)


LOADS: dict[Scale, dict[str, Load]] = {
    "full": {
        "equal": Load(prompt=1024, output=128),
        "long": Load(prompt=1000, output=1000),
        "tail": Load(prompt=512, output=64, sigma=1.0, shortest=8, longest=512),
        "prefix": Load(prompt=2048 + 128, output=16, prefixes=64, prefix=2048),
    },
    "tiny": {
        "equal": Load(prompt=32, output=8),
        "long": Load(prompt=24, output=24),
        "tail": Load(prompt=32, output=8, sigma=1.0, shortest=2, longest=32),
        "prefix": Load(prompt=128 + 8, output=4, prefixes=4, prefix=128),
    },
}
MODEL_LEN: dict[Scale, int] = {"full": 4096, "tiny": 512}  # more than any load needs, as in jobs
Answer = Callable[[Load, list[Request]], dict[str, Any]]


def make_requests(
    load: Load, rows: int, *, vocab: int, seed: int = 0, most: int | None = None
) -> list[Request]:
    """The rows of a load; `most` cuts every answer (for warming up)."""
    rng = np.random.default_rng([seed, load.prompt, load.output])
    top = min(vocab, 262_144)  # beyond are ids that only pad the matrix of a real model
    ids = rng.integers(FIRST_WORD, top, size=(rows, load.prompt), dtype=np.int32)
    ids[:, 0] = BOS
    if load.prefixes:
        shared = rng.integers(FIRST_WORD, top, size=(load.prefixes, load.prefix), dtype=np.int32)
        shared[:, 0] = BOS
        ids[:, : load.prefix] = shared[np.arange(rows) % load.prefixes]
    lengths: list[int] | None = None
    if load.sigma:
        drawn = np.exp(rng.normal(np.log(load.output), load.sigma, size=rows))
        lengths = np.clip(np.rint(drawn), load.shortest, load.longest).astype(int).tolist()
    requests = []
    for number, row in enumerate(ids.tolist()):
        sampling: dict[str, Any] = {}
        if lengths is not None:
            sampling = {"max_tokens": min(lengths[number], most or lengths[number])}
        elif most is not None:
            sampling = {"max_tokens": min(load.output, most)}
        requests.append(Request(number, TokenPrompt(row), sampling))
    return requests


def output_tokens(load: Load, requests: list[Request]) -> int:
    """Tokens that all answers together must have."""
    return sum(request.sampling.get("max_tokens", load.output) for request in requests)


def cacheable_tokens(load: Load, rows: int) -> int:
    """Prompt tokens that nobody would have to compute twice."""
    return max(0, rows - load.prefixes) * load.prefix


def combine(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of engines that ran side by side: from the first request to the last answer."""
    seconds = max(part["end"] for part in parts) - min(part["begin"] for part in parts)
    names = ("rows", "prompt_tokens", "output_tokens", "cached_tokens")
    figure: dict[str, Any] = {name: sum(part[name] for part in parts) for name in names}
    return figure | {
        "seconds": seconds,
        "output_per_second": figure["output_tokens"] / seconds,
        "total_per_second": (figure["prompt_tokens"] + figure["output_tokens"]) / seconds,
        "start_seconds": max(part["start_seconds"] for part in parts),
        "problem": next((part["problem"] for part in parts if part["problem"]), ""),
    }


# -- a contender, in a process of its own ---------------------------------------------------


def child(path: Path) -> None:
    """Answer the loads of the job in `path`; figures go to a file, a line per load."""
    job = json.loads(path.read_text())
    wait_for(job, *([f"ready-{job['part'] - 1}"] if job["in_turn"] and job["part"] else []))
    started = time.monotonic()
    with (llm_engine if job["contender"] == "llm" else feed_engine)(job) as answer:
        start_seconds = time.monotonic() - started
        tell(job, f"ready-{job['part']}")
        for name, rows in job["loads"]:
            load, vocab = LOADS[job["scale"]][name], job["vocab"]
            warm = make_requests(
                load, min(rows, WARM_ROWS), vocab=vocab, seed=WARM_SEED, most=WARM_TOKENS
            )
            answer(load, warm)
            requests = make_requests(load, rows, vocab=vocab, seed=job["seed"])
            mine = requests[job["part"] :: job["parts"]]
            tell(job, f"{name}-{job['part']}")
            wait_for(job, *(f"{name}-{part}" for part in range(job["parts"])))
            begin = time.monotonic()  # one clock for all processes of a machine
            figures = answer(load, mine)
            end = time.monotonic()
            wanted = output_tokens(load, mine)
            if not figures["problem"] and figures["output_tokens"] != wanted:
                figures["problem"] = f"{figures['output_tokens']} of {wanted} output tokens"
            figures |= {"begin": begin, "end": end, "start_seconds": start_seconds}
            with (Path(job["folder"]) / f"figures-{job['part']}").open("a") as file:
                file.write(json.dumps(figures) + "\n")


def tell(job: dict[str, Any], what: str) -> None:
    """Let the other engines on this GPU know."""
    (Path(job["folder"]) / f"{what}.told").touch()


def wait_for(job: dict[str, Any], *whats: str) -> None:
    """Wait until it was told; for ever, since the parent ends everybody when one fails."""
    while not all((Path(job["folder"]) / f"{what}.told").exists() for what in whats):
        time.sleep(0.01)


@contextlib.contextmanager
def llm_engine(job: dict[str, Any]) -> Iterator[Answer]:
    """`vllm.LLM` with the arguments that engines/vllm.py gives its engine."""
    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs

    args: dict[str, Any] = {
        **{key: job[key] for key in ("model", "dtype", "max_model_len", "max_num_seqs")},
        "max_num_batched_tokens": job["max_num_batched_tokens"],
        "language_model_only": True,
        "load_format": "dummy",
        "disable_log_stats": True,
        "seed": 0,
    }
    if job["device"] == "cpu":
        args["enforce_eager"] = True
    else:
        args["gpu_memory_utilization"] = job["gpu_memory_utilization"]
    known = EngineArgs.__dataclass_fields__  # type: ignore[attr-defined,unused-ignore]
    llm = LLM(**{key: value for key, value in args.items() if key in known})

    def answer(load: Load, requests: list[Request]) -> dict[str, Any]:
        plain = {"temperature": 0, "max_tokens": load.output, "ignore_eos": True}
        one = SamplingParams(**plain)
        params = [
            SamplingParams(**plain | request.sampling) if request.sampling else one
            for request in requests
        ]
        prompts = [{"prompt_token_ids": token_ids(request.prompt)} for request in requests]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return {
            "rows": len(outputs),
            "prompt_tokens": sum(len(output.prompt_token_ids) for output in outputs),
            "output_tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
            "cached_tokens": sum(output.num_cached_tokens or 0 for output in outputs),
            "problem": "",
        }

    yield answer
    llm.llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def feed_engine(job: dict[str, Any]) -> Iterator[Answer]:
    """The feed on an event loop of its own, as in cluster/worker.py."""
    from gemma_batch.answering.feed import Feed
    from gemma_batch.engines.base import EngineConfig, make_engine

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="engine", daemon=True).start()

    def now(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    echo, cpu = job["contender"] == "echo", job["device"] == "cpu"
    usual = LOADS[job["scale"]][job["loads"][0][0]].output
    config = EngineConfig(
        engine="echo" if echo else "vllm",
        device="cpu" if cpu else "gpu",
        gpu_memory_utilization=None if cpu else job["gpu_memory_utilization"],
        cpu_kv_cache_gib=1.0 if cpu else None,
        sampling={"temperature": 0, "max_tokens": usual, "ignore_eos": True},
        args={} if echo else {"load_format": "dummy"},
        **{key: job[key] for key in ("model", "dtype", "max_model_len", "max_num_seqs")},
        max_num_batched_tokens=job["max_num_batched_tokens"],
    )
    feed = Feed(
        lambda: make_engine(config),
        in_flight=int(job["max_num_seqs"] * FEED_FACTOR),
        order="input" if job["contender"] == "feed-input" else "auto",
    )
    now(feed.start())

    def answer(load: Load, requests: list[Request]) -> dict[str, Any]:
        if load.output != usual:  # a job's own length, which a later load's rows override
            for request in requests:
                request.sampling.setdefault("max_tokens", load.output)
        outcomes = now(feed.run(requests)).values()
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        done = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
        starts = feed.stats.engine_starts
        return {
            "rows": len(done),
            "prompt_tokens": sum(outcome.prompt_tokens for outcome in done),
            "output_tokens": sum(outcome.completion_tokens for outcome in done),
            "cached_tokens": sum(outcome.cached_tokens for outcome in done),
            "problem": failures[0].message
            if failures
            else ""
            if starts == 1
            else f"the engine started {starts} times",
        }

    try:
        yield answer
    finally:
        now(feed.close())
