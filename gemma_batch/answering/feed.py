"""The feed: keeps one engine full with the rows of several units, and each row's policy.

It knows neither Ray nor storage: units of requests go in, one outcome per request comes out.
Rows of all units wait in one queue (see `order`), so that the engine never drains at a unit's
border; a slow row holds back only its own unit.

When the engine dies, the rows that were in flight are tried again in ever smaller groups,
nothing else running beside them, until the row that kills it is alone. With one such row among
N that takes at most log2(N) + 1 further deaths, usually half as many.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from gemma_batch.answering.order import RowQueue
from gemma_batch.answering.stats import FeedStats
from gemma_batch.backoff import pause
from gemma_batch.engines.base import Engine
from gemma_batch.errors import (
    EngineError,
    EngineLost,
    EngineStartError,
    FailureCode,
    RowRejected,
    RowTransient,
)
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.rows import Completion, Failure, Outcome, Refusal, Request
from gemma_batch.units.row_policy import Order, RowPolicy

logger = logging.getLogger(__name__)

PING_SECONDS = 10.0
PAUSE_CAP = 60.0  # seconds between two attempts of a row, or two starts of an engine
# How long the rows in flight may take to notice that their engine is gone.
LOST_SECONDS = 30.0
# So many rows condemned one after the other without a single answer in between cast doubt on
# the engine itself: a harmless request then has to prove that it works at all.
CONDEMNED_BEFORE_CANARY = 3
START_ATTEMPTS = 3
HARMLESS = Request(-1, TokenPrompt([2]), {"max_tokens": 1, "min_tokens": 0})


@dataclass(slots=True, eq=False)
class _Item:
    request: Request
    done: asyncio.Future[Outcome]
    attempts: int = 0
    first: float = 0.0
    engine: Engine | None = None
    again: str = "engine_lost"  # why there will be another attempt, should there be one


class Feed:
    """Feeds one engine. All methods run on one event loop; `stats` may be read from anywhere.

    `in_flight` is the number of requests to keep in the engine; `check` says whether a completion
    is an answer of the shape that was asked for (see `answers.py`).
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        *,
        in_flight: int,
        policy: RowPolicy | None = None,
        order: Order = "auto",
        check: Callable[[Completion], Refusal | None] = lambda completion: None,
    ) -> None:
        self.stats = FeedStats()
        self._check = check
        self._make = make
        self._limit = max(1, in_flight)
        self._policy = policy or RowPolicy()
        self._engine: Engine | None = None
        self._ready = False
        self._queue: RowQueue[_Item] = RowQueue(order, lambda item: item.request)
        self._open: set[_Item] = set()  # every row without an outcome, wherever it is
        self._admission = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._active: dict[_Item, asyncio.Task[bool]] = {}
        self._recovery: asyncio.Task[None] | None = None
        self._broken: EngineError | None = None
        self._watch: asyncio.Task[None] | None = None
        self._condemned_in_a_row = 0
        self._idle_since: float | None = None

    async def start(self, on_ready: Callable[[], object] | None = None) -> None:
        """Start the engine. Raises `EngineStartError` after a few attempts.

        `on_ready` is called, in a thread, before the first row goes to the engine.
        """
        try:
            await self._start_engine()
        except EngineError as err:
            self._break(err)
            raise
        if on_ready is not None:
            await asyncio.to_thread(on_ready)
        self._ready = True
        self._pump()

    async def run(self, requests: list[Request]) -> dict[int, Outcome]:
        """One outcome per request, by row number. May be called many times at once.

        Raises `EngineError` when the engine cannot be kept alive; no outcome is lost silently.
        """
        loop = asyncio.get_running_loop()
        items = [_Item(request, loop.create_future()) for request in requests]
        self._open.update(items)
        self._queue.add(items)
        self._pump()
        if self._broken is not None:
            self._break(self._broken)
        outcomes = await asyncio.gather(*(item.done for item in items))
        return {item.request.number: out for item, out in zip(items, outcomes, strict=True)}

    async def run_when_needed(self, load: Callable[[], list[Request]]) -> dict[int, Outcome]:
        """The same for requests that are loaded, in a thread, when there will soon be room.

        Only then are they in this process's memory, and lost with it.
        """
        async with self._admission:  # first come, first served, one at a time
            await self._wanted.wait()
            requests = await asyncio.to_thread(load)
            answers = asyncio.ensure_future(self.run(requests))
            await asyncio.sleep(0)  # now its rows are in the queue
        return await answers

    async def close(self) -> None:
        """Stop the engine; rows still waiting get `EngineLost`."""
        self._break(EngineLost("the engine was closed"))
        for task in (self._recovery, self._watch):
            if task is not None:
                task.cancel()
        if self._engine is not None:
            await self._engine.stop()

    def engine_numbers(self) -> dict[str, float]:
        """What the engine says about itself now; may be asked from any thread."""
        engine = self._engine
        return engine.numbers() if engine is not None else {}

    def fail(self, error: EngineError) -> None:
        """Give up for a cause outside the engine: rows waiting now and later get `error`."""
        self._break(error)

    # -- normal running ---------------------------------------------------------------------

    def _pump(self) -> None:
        """Submit waiting rows while the engine has room."""
        running = self._ready and self._engine is not None
        if running and self._recovery is None and self._broken is None:
            while self._queue and len(self._active) < self._limit:
                self._submit(self._queue.pop())
        self.stats.in_flight, self.stats.waiting = len(self._active), len(self._queue)
        oldest = next(iter(self._active), None)
        self.stats.oldest = oldest.first if oldest is not None else 0.0
        self._measure_starving()
        # The engine's next fill is always waiting; behind it only what the order can make use of.
        if self._broken is not None or len(self._queue) < max(self._limit, self._queue.reach):
            self._wanted.set()
        else:
            self._wanted.clear()

    def _measure_starving(self) -> None:
        # Starved: a ready engine with nothing to do. Its share of the run is our cost, not its.
        now = time.monotonic()
        starving = self._engine is not None and self._recovery is None and not self._active
        if starving and self._idle_since is None:
            self._idle_since = now
        elif not starving and self._idle_since is not None:
            self.stats.starved_seconds += now - self._idle_since
            self._idle_since = None

    def _submit(self, item: _Item) -> asyncio.Task[bool]:
        item.first = item.first or time.monotonic()
        task = asyncio.create_task(self._attempt(item))
        self._active[item] = task
        task.add_done_callback(lambda _: self._after(item))
        return task

    def _after(self, item: _Item) -> None:
        self._active.pop(item, None)
        self._pump()

    async def _attempt(self, item: _Item) -> bool:
        """Try one row until it has an outcome (True) or the engine dies under it (False)."""
        assert self._engine is not None
        engine, policy = self._engine, self._policy
        item.engine = engine
        while True:
            if item.attempts:
                self.stats.count_retry(item.again)
            item.attempts, item.again = item.attempts + 1, "engine_lost"
            try:
                async with asyncio.timeout(policy.deadline):
                    answer = await engine.generate(item.request)
            except RowRejected as err:
                self._finish(item, self._failure(item, FailureCode.ENGINE_REJECTED, str(err)))
            except RowTransient as err:
                if item.attempts < policy.max_attempts:
                    item.again = "transient"
                    await asyncio.sleep(pause(item.attempts, base=policy.backoff, cap=PAUSE_CAP))
                    continue
                self._finish(item, self._failure(item, FailureCode.ENGINE_ERROR, str(err)))
            except TimeoutError:
                text = f"no answer within {policy.deadline:g} s (policy.row_deadline)"
                self._finish(item, self._failure(item, FailureCode.DEADLINE, text))
            except EngineLost as err:
                self._engine_lost(engine, err)
                return False
            except Exception as err:  # an engine's defect must cost this row, not the run
                logger.exception("unexpected error for row %s", item.request.number)
                text = f"{type(err).__name__}: {err}"
                self._finish(item, self._failure(item, FailureCode.ENGINE_ERROR, text))
            else:
                refusal = self._check(answer)
                if refusal is None:
                    answer.attempts = item.attempts
                    self._finish(item, answer)
                elif refusal.again and item.attempts < policy.max_attempts:
                    item.again = "refused"
                    continue
                else:
                    code = FailureCode(refusal.code)
                    self._finish(item, self._failure(item, code, refusal.message))
            return True

    def _failure(self, item: _Item, code: FailureCode, message: str) -> Failure:
        return Failure(code.value, message, item.attempts, time.monotonic() - item.first)

    def _finish(self, item: _Item, outcome: Outcome) -> None:
        if item.done.done():
            return
        self._open.discard(item)
        self.stats.count(outcome)
        if isinstance(outcome, Completion):
            self._condemned_in_a_row = 0
            self._queue.learn(item.request, outcome.completion_tokens)
        item.done.set_result(outcome)

    def _break(self, error: EngineError) -> None:
        """Give up: every row that waits gets the error; units of them are not committed."""
        self._broken = error
        for item in self._open:
            item.done.set_exception(error)
        self._open.clear()
        self._queue.clear()
        self._wanted.set()

    # -- engine death -----------------------------------------------------------------------

    async def _start_engine(self) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            started = time.monotonic()
            engine = self._make()
            try:
                await engine.start()
            except EngineStartError as err:
                await engine.stop()
                if attempt == START_ATTEMPTS:
                    raise
                logger.warning("engine start %d of %d failed: %s", attempt, START_ATTEMPTS, err)
                await asyncio.sleep(pause(attempt, base=self._policy.backoff, cap=PAUSE_CAP))
                continue
            self.stats.engine_starts += 1
            self.stats.start_seconds += time.monotonic() - started
            self.stats.ready_at = self.stats.ready_at or time.time()
            self._engine = engine
            self._watch = asyncio.create_task(self._watch_for_hangs(engine))
            return

    async def _watch_for_hangs(self, engine: Engine) -> None:
        """Kill an engine whose process lives but gives no sign of life for `policy.hang` s."""
        limit = self._policy.hang
        error: EngineLost | None = None
        while self._engine is engine and error is None:
            await asyncio.sleep(min(PING_SECONDS, limit / 4))
            try:
                async with asyncio.timeout(limit):
                    await engine.ping()
            except TimeoutError:
                error = EngineLost(f"the engine hung: no sign of life for {limit:g} s")
                self.stats.engine_hangs += 1
                await engine.kill()
            except EngineLost as err:
                error = err
        if error is None:
            return
        self._engine_lost(engine, error)
        # The rows in flight see the death now; one that does not would wait for ever.
        await asyncio.sleep(LOST_SECONDS)
        for item, task in list(self._active.items()):
            if item.engine is engine:
                task.cancel()

    def _engine_lost(self, engine: Engine, error: EngineLost) -> None:
        if self._recovery is None and engine is self._engine and self._broken is None:
            logger.warning("engine lost with %d rows in flight: %s", len(self._active), error)
            self._recovery = asyncio.create_task(self._recover(list(self._active)))

    async def _recover(self, suspects: list[_Item]) -> None:
        begun = time.monotonic()
        try:
            # All rows in flight see the death; wait until each has reported it or its answer.
            await asyncio.gather(*self._active.values(), return_exceptions=True)
            await self._restart()
            await self._isolate([item for item in suspects if not item.done.done()])
        except EngineError as err:
            self._break(err)
        except asyncio.CancelledError:
            raise
        except BaseException as err:
            self._break(EngineLost(f"recovery failed: {type(err).__name__}: {err}"))
            raise
        finally:
            self._recovery = None
            self.stats.recovering_seconds += time.monotonic() - begun
            self._pump()

    async def _restart(self) -> None:
        assert self._engine is not None
        dead, self._engine = self._engine, None
        await dead.stop()
        await self._start_engine()

    async def _isolate(self, suspects: list[_Item]) -> None:
        """Bisect the rows that were in flight; the one that dies alone is condemned."""
        while suspects:
            group = suspects[: max(1, len(suspects) // 2)]
            rest = suspects[len(group) :]
            left = await self._trial(group)
            if not left:
                suspects = rest  # the group is innocent, so the culprit is among the rest
                continue
            if len(group) == 1:
                self._condemn(group[0])
                await self._restart()
                await self._canary()
            else:
                await self._restart()
            # The rest did nothing wrong that is known: it goes back to the head of the queue.
            self._queue.put_back(rest)
            suspects = left if len(group) > 1 else []

    async def _trial(self, group: list[_Item]) -> list[_Item]:
        """Run only these rows; those without outcome because the engine died come back."""
        limit = self._limit
        for start in range(0, len(group), limit):
            tasks = [self._submit(item) for item in group[start : start + limit]]
            await asyncio.gather(*tasks, return_exceptions=True)
        return [item for item in group if not item.done.done()]

    def _condemn(self, item: _Item) -> None:
        self._condemned_in_a_row += 1
        text = "the engine process died, or hung, with this row alone in flight"
        self._finish(item, self._failure(item, FailureCode.ENGINE_CRASH, text))

    async def _canary(self) -> None:
        if self._condemned_in_a_row < CONDEMNED_BEFORE_CANARY:
            return
        assert self._engine is not None
        try:
            await self._engine.generate(HARMLESS)
        except (RowRejected, RowTransient):
            pass  # it answers, that is all that is asked of it
        except EngineLost as err:
            raise EngineLost(
                f"the engine dies on every request, also on a harmless one: {err}"
            ) from err
        self._condemned_in_a_row = 0
