"""The echo engine: a dry run whose answers can be predicted and whose deaths are real."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from gemma_batch.engines.base import EngineConfig, engine_class, make_engine
from gemma_batch.engines.echo import EchoEngine
from gemma_batch.errors import EngineLost, EngineStartError, SpecError
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.rows import Request


def config(**changes: Any) -> EngineConfig:
    given: dict[str, Any] = {"sampling": {"max_tokens": 3}, **changes}
    return EngineConfig(
        engine="echo",
        model="-",
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        **given,
    )


def run(engine: EchoEngine, *requests: Request) -> list[Any]:
    async def work() -> list[Any]:
        await engine.start()
        try:
            return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)
        finally:
            await engine.stop()

    return asyncio.run(work())


def test_the_answer_is_a_function_of_the_tokens() -> None:
    """The last max_tokens ids; a row's own max_tokens and n count."""
    engine = make_engine(config())
    assert isinstance(engine, EchoEngine)
    plain, own = run(
        engine,
        Request(0, TokenPrompt([1, 2, 3, 4])),
        Request(1, TokenPrompt([5, 6]), {"max_tokens": 1, "n": 2}),
    )
    assert (plain.outputs, plain.finish_reasons) == (["2 3 4"], ["length"])
    assert (plain.prompt_tokens, plain.completion_tokens) == (4, 3)
    assert (own.outputs, own.completion_tokens) == (["6", "6"], 2)


def test_the_rate_is_shared_by_all_requests() -> None:
    """rows_per_second is what scale tests rely on."""
    started = time.perf_counter()
    run(
        EchoEngine(config(args={"rows_per_second": 50})),
        *(Request(n, TokenPrompt([n])) for n in range(20)),
    )
    assert 0.38 <= time.perf_counter() - started < 10


def test_long_answers_take_longer_side_by_side() -> None:
    """tokens_per_second: each request its own time, and none waits for another."""
    engine = EchoEngine(config(args={"tokens_per_second": 2}, sampling={"max_tokens": 5}))
    started = time.perf_counter()
    answers = run(engine, *(Request(n, TokenPrompt(list(range(n)))) for n in (1, 5, 9, 5)))
    assert 2.5 <= time.perf_counter() - started < 8, "one after the other is 8 s"
    assert [answer.completion_tokens for answer in answers] == [1, 5, 5, 5]
    for answer in answers:
        assert answer.seconds >= 0.95 * answer.completion_tokens / 2
    assert answers[0].seconds < 2.4


def test_a_poison_row_ends_the_engine_for_everyone_and_leaves_no_process() -> None:
    """Every row in flight sees the death, as with a real engine."""
    before = {child.pid for child in psutil.Process().children()}
    engine = EchoEngine(config(args={"crash_on": [7, 7], "delay": 60}))
    started = time.perf_counter()
    answers = run(
        engine,
        Request(0, TokenPrompt([1])),
        Request(1, TokenPrompt([0, 7, 7, 0])),
        Request(2, TokenPrompt([2])),
    )
    assert [type(answer) for answer in answers] == [EngineLost] * 3
    assert time.perf_counter() - started < 30, "death is noticed at once, not after the delay"
    assert {child.pid for child in psutil.Process().children()} <= before


def test_unknown_arguments_are_refused() -> None:
    """With the names there are."""
    with pytest.raises(SpecError, match=r"'speed'.*rows_per_second"):
        engine_class("echo").check_args({"speed": 1})
    engine_class("echo").check_args({"delay": 1})


def test_a_start_that_fails_on_named_nodes() -> None:
    """The dry run of a bad node: by host name or address, with the message that was asked for."""
    here = os.uname().nodename

    async def start(**args: Any) -> None:
        engine = make_engine(config(args=args))
        await engine.start()
        await engine.stop()

    asyncio.run(start(fail_start_on=["another-node", "192.0.2.250"]))
    for name in (here, "127.0.0.1"):
        with pytest.raises(EngineStartError, match="Xid 79"):
            asyncio.run(start(fail_start_on=["another-node", name], fail_start_with="Xid 79"))
    with pytest.raises(SpecError, match="fail_start_on='here'"):
        engine_class("echo").check_args({"fail_start_on": "here"})


def test_engines_take_the_speeds_of_a_list_in_turn(tmp_path: Path) -> None:
    """The first is fast, the second slow, the third fast again; whichever process each runs in."""
    args = {"rows_per_second": [1000, 20], "turns": str(tmp_path / "turns")}
    seconds = []
    for _ in range(3):
        answers = run(
            EchoEngine(config(args=args)), *(Request(n, TokenPrompt([1])) for n in range(4))
        )
        seconds.append(max(answer.seconds for answer in answers))
    assert seconds[1] >= 4 / 20 * 0.99
    assert max(seconds[0], seconds[2]) < seconds[1]
    with pytest.raises(SpecError, match="`turns`, the path of a file"):
        EchoEngine.check_args({"rows_per_second": [10, 20]})
