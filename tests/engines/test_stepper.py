"""The stepper, driving a real blocking engine: a queue served by a thread."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from gemma_batch.engines.stepper import Stepper


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@dataclass
class Output:
    """What a step gives out."""

    request_id: str
    text: str
    finished: bool = True


class Doubler:
    """Doubles numbers, some a step, after `seconds`; refuses what is not a number."""

    def __init__(self, seconds: float = 0.0, per_step: int = 3) -> None:
        self.seconds, self.per_step = seconds, per_step
        self.open: dict[str, int] = {}
        self.aborted: list[str] = []
        self.threads: set[int] = set()
        self.dead: queue.Queue[Exception] = queue.Queue()
        self.stuck = threading.Event()
        self.probes = 0

    def add_request(self, request_id: str, prompt: Any, params: Any) -> None:
        """Refuses anything but a number."""
        self.threads.add(threading.get_ident())
        if not isinstance(prompt, int):
            raise TypeError(f"{prompt!r} is no number")
        self.open[request_id] = prompt

    def abort_request(self, request_ids: list[str]) -> None:
        """Remembers what was aborted."""
        self.threads.add(threading.get_ident())
        for name in request_ids:
            if self.open.pop(name, None) is not None:
                self.aborted.append(name)

    def has_unfinished_requests(self) -> bool:
        """Whether any number waits."""
        return bool(self.open)

    def step(self) -> list[Output]:
        """The first few, doubled; unfinished outputs of the rest, as engines give them."""
        self.threads.add(threading.get_ident())
        if self.stuck.is_set():
            time.sleep(3600)
        time.sleep(self.seconds)
        if not self.dead.empty():
            raise self.dead.get()
        names = list(self.open)
        done = [Output(name, str(2 * self.open.pop(name))) for name in names[: self.per_step]]
        return done + [Output(name, "", finished=False) for name in names[self.per_step :]]

    def probe(self) -> None:
        """A question that a healthy engine answers."""
        self.probes += 1


@on_a_loop
async def test_every_request_gets_its_own_answer_and_one_thread_does_it_all() -> None:
    """Answers never cross, and the engine sees one thread, which it may rely on."""
    engine = Doubler()
    stepper = Stepper(engine, engine.probe)
    answers = await asyncio.gather(*(stepper.answer(n, None) for n in range(100)))
    assert [answer.text for answer in answers] == [str(2 * n) for n in range(100)]
    assert len(engine.threads) == 1
    stepper.lose(RuntimeError("over"))


@on_a_loop
async def test_a_refused_request_costs_only_itself() -> None:
    """What `add_request` raises reaches the one who asked, the others are answered."""
    engine = Doubler()
    stepper = Stepper(engine, engine.probe)
    good, bad = stepper.answer(1, None), stepper.answer("x", None)
    first, second = await asyncio.gather(good, bad, return_exceptions=True)
    assert first.text == "2"
    assert isinstance(second, TypeError)
    assert "'x' is no number" in str(second)
    stepper.lose(RuntimeError("over"))


@on_a_loop
async def test_cancelling_frees_the_request_in_the_engine() -> None:
    """A row past its deadline must not go on using the engine."""
    engine = Doubler(seconds=0.05, per_step=0)
    stepper = Stepper(engine, engine.probe)
    task = asyncio.create_task(stepper.answer(1, None))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if engine.aborted:
            break
        await asyncio.sleep(0.02)
    assert engine.aborted == ["r1"]
    assert not engine.open
    stepper.lose(RuntimeError("over"))


@on_a_loop
async def test_an_engine_that_raises_ends_every_wait_now_and_later() -> None:
    """No row waits for an engine that is gone."""
    engine = Doubler(seconds=0.05, per_step=0)
    stepper = Stepper(engine, engine.probe)
    waiting = [asyncio.create_task(stepper.answer(n, None)) for n in range(5)]
    await asyncio.sleep(0.1)
    engine.dead.put(RuntimeError("the core died"))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(r, RuntimeError) and "core died" in str(r) for r in results)
    with pytest.raises(RuntimeError, match="core died"):
        await stepper.answer(1, None)
    with pytest.raises(RuntimeError, match="core died"):
        await stepper.sign_of_life()


@on_a_loop
async def test_signs_of_life_of_an_idle_and_of_a_busy_engine() -> None:
    """Idle: the engine answers a question; busy: its next step is the sign, no question asked."""
    engine = Doubler(seconds=0.02, per_step=0)
    stepper = Stepper(engine, engine.probe)
    await asyncio.wait_for(stepper.sign_of_life(), 5)
    assert engine.probes == 1
    busy = asyncio.create_task(stepper.answer(1, None))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(stepper.sign_of_life(), 5)
    assert engine.probes == 1
    busy.cancel()
    stepper.lose(RuntimeError("over"))


@on_a_loop
async def test_a_stuck_engine_gives_no_sign_and_losing_it_frees_those_who_wait() -> None:
    """The watchdog can tell a hang, and what it then says reaches every row."""
    engine = Doubler()
    engine.stuck.set()
    stepper = Stepper(engine, engine.probe)
    row = asyncio.create_task(stepper.answer(1, None))
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stepper.sign_of_life(), 0.2)
    stepper.lose(RuntimeError("hung"))
    with pytest.raises(RuntimeError, match="hung"):
        await row
