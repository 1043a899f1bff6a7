"""Stepper: drives a blocking engine from a thread of its own and answers on an event loop.

The engine is anything that takes requests and is stepped, such as vLLM's `LLMEngine`. All calls
into it are made by one thread, and what a step finished comes back in one go, so that a row costs
the event loop one future and no task of its own. Trade-off: a request that arrives during a step
waits for its end, which costs nothing while more requests are queued than the engine runs.

It knows nothing about vLLM, rows or retries.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Steppable(Protocol):
    """What is driven. `step` blocks until there is something to tell."""

    def add_request(self, request_id: str, prompt: Any, params: Any) -> Any:
        """Take a request; raises when it is not valid."""

    def abort_request(self, request_ids: list[str]) -> None:
        """Forget requests."""

    def step(self) -> Iterable[Any]:
        """Outputs with `request_id` and `finished`."""
        ...

    def has_unfinished_requests(self) -> bool:
        """Whether there is anything to step for."""
        ...


class Stepper:
    """See the module's docstring. Made, called and closed on one event loop.

    `probe` is a blocking question to the engine, asked when it is idle and somebody wants to know
    whether it lives.
    """

    def __init__(self, engine: Steppable, probe: Callable[[], object]) -> None:
        self._engine, self._probe = engine, probe
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[tuple[str, Any, Any, Any] | None] = queue.SimpleQueue()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._signs: list[asyncio.Future[None]] = []
        self._numbers = itertools.count(1)
        self._lost: BaseException | None = None
        self._pinged = False  # the thread's own: somebody waits for the next step
        threading.Thread(target=self._run, name="stepper", daemon=True).start()

    @property
    def lost(self) -> BaseException | None:
        """Why the engine answers no more, None while it does."""
        return self._lost

    async def answer(self, prompt: Any, params: Any) -> Any:
        """The final output of one request; cancelling frees it in the engine.

        Raises what `add_request` raised for it, or what ended the engine.
        """
        if self._lost is not None:
            raise self._lost
        name = f"r{next(self._numbers)}"
        answer = self._answers[name] = self._loop.create_future()
        self._commands.put(("add", name, prompt, params))
        try:
            return await answer
        except asyncio.CancelledError:
            self._commands.put(("abort", name, None, None))
            raise
        finally:
            self._answers.pop(name, None)

    async def sign_of_life(self) -> None:
        """Return after the next step, or when the idle engine has answered the probe.

        An engine that hangs never lets this return. Raises what ended the engine.
        """
        if self._lost is not None:
            raise self._lost
        sign = self._loop.create_future()
        self._signs.append(sign)
        self._commands.put(("ping", "", None, None))
        await sign

    def lose(self, error: BaseException) -> None:
        """The engine is gone: everybody who waits, now or later, gets `error`."""
        if self._lost is not None:
            return
        self._lost = error
        for waiting in (*self._answers.values(), *self._signs):
            if not waiting.done():
                waiting.set_exception(error)
        self._signs.clear()
        self._commands.put(None)

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_commands():
                finished = [output for output in self._engine.step() if output.finished]
                if finished or self._pinged:
                    self._tell(self._deliver, finished, self._pinged)
                    self._pinged = False
        except BaseException as err:  # whatever ends the thread has to reach those who wait
            self._tell(self.lose, err)

    def _take_commands(self) -> bool:
        """Do all that is asked; wait for something when the engine is idle. False: it is over."""
        while True:
            idle = not self._engine.has_unfinished_requests()
            if idle and self._pinged:
                self._probe()
                self._tell(self._deliver, [], True)
                self._pinged = False
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            act, name, prompt, params = command
            if act == "add":
                try:
                    self._engine.add_request(name, prompt, params)
                except Exception as err:
                    self._tell(self._refuse, name, err)
            elif act == "abort":
                self._engine.abort_request([name])
            else:
                self._pinged = True

    def _tell(self, what: Callable[..., object], *values: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *values)

    # -- back on the loop -------------------------------------------------------------------

    def _deliver(self, finished: list[Any], pinged: bool) -> None:
        for output in finished:
            answer = self._answers.get(output.request_id)
            if answer is not None and not answer.done():
                answer.set_result(output)
        if pinged:
            signs, self._signs = self._signs, []
            for sign in signs:
                if not sign.done():
                    sign.set_result(None)

    def _refuse(self, name: str, error: Exception) -> None:
        answer = self._answers.get(name)
        if answer is not None and not answer.done():
            answer.set_exception(error)
