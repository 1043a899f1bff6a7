"""The feed: keeps one engine full with the rows of several units, and retries rows (GPU actor).

The feed knows neither Ray nor storage. It takes the requests of a unit and returns one outcome per
request. The rows of all units wait in one queue (see `order.py`), so the engine does not run empty
at the end of a unit. A slow row delays only the unit that it belongs to.

When the engine dies, the feed starts a new engine and looks for the row that killed it among those
that were in flight (see `isolation.py`): this row fails. A row whose answer does not have the shape
of the job is asked again (see `again.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from gemma_batch.answering.isolation import isolate
from gemma_batch.answering.item import AskAgain, Item
from gemma_batch.answering.load import GivenBack, Load
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
from gemma_batch.rows import Completion, Outcome, Refusal, Request
from gemma_batch.units.row_policy import Order, RowPolicy

logger = logging.getLogger(__name__)

PING_SECONDS = 10.0  # the longest pause between two pings of the engine
PAUSE_CAP = 60.0  # the longest pause in seconds, between attempts of a row or starts of an engine
# The rows in flight have this many seconds to notice that their engine is gone.
LOST_SECONDS = 30.0
# When so many rows are condemned without a single answer in between, the engine itself may be the
# cause: the feed tests it with a harmless request before it blames another row.
CONDEMNED_BEFORE_CANARY = 3
START_ATTEMPTS = 3
HARMLESS = Request(-1, TokenPrompt([2]), {"max_tokens": 1, "min_tokens": 0})


class Feed:
    """Feeds one engine. The methods run on one event loop.

    Any thread may read `stats` and call `engine_numbers`.
    `make` returns an engine that is not started yet. `in_flight` is the number of requests to keep
    in the engine. `check` returns None for a completion of the shape that the job wants, else the
    refusal (see `answers.py`). `ask_again` makes the next request for a row whose answer was
    refused for the n-th time, or gives up (default: the same request, up to the attempts of the
    policy). `stats` are totals to go on with, of an earlier engine.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        *,
        in_flight: int,
        policy: RowPolicy | None = None,
        order: Order = "auto",
        check: Callable[[Completion, Request], Refusal | None] = lambda completion, request: None,
        ask_again: AskAgain | None = None,
        stats: FeedStats | None = None,
    ) -> None:
        self.stats = stats or FeedStats()
        self._check, self._ask_again = check, ask_again or self._same_again
        self._make = make
        self._limit = max(1, in_flight)
        self._policy = policy or RowPolicy()
        self._engine: Engine | None = None
        self._ready = False
        self._queue: RowQueue[Item] = RowQueue(order, lambda item: item.request)
        self._open: set[Item] = set()  # every row without an outcome
        self._admission = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._active: dict[Item, asyncio.Task[bool]] = {}
        self._recovery: asyncio.Task[None] | None = None
        self._broken: EngineError | None = None
        self._watch: asyncio.Task[None] | None = None
        self._condemned_in_a_row = 0
        self._idle_since: float | None = None
        self._no_more = False

    async def start(self, on_ready: Callable[[], object] | None = None) -> None:
        """Start the engine. Raises `EngineStartError` after `START_ATTEMPTS` attempts.

        `on_ready` is called in a thread before the first row goes to the engine.
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

    async def run(self, requests: list[Request], load: Load | None = None) -> dict[int, Outcome]:
        """Answer the requests: one outcome per request, by row number.

        Several calls may run at the same time. Raises `EngineError` when the engine cannot be kept
        alive, so that no row is lost silently. `load` is for `run_when_needed`.
        """
        load, loop = load or Load(len(requests)), asyncio.get_running_loop()
        if self._no_more and load.may_return:
            raise GivenBack
        items = [Item.of(request, loop.create_future(), load) for request in requests]
        self._open.update(items)
        self._queue.add(items)
        self._pump()
        if self._broken is not None:
            self._break(self._broken)
        outcomes = await asyncio.gather(*(item.done for item in items))
        return {item.request.number: out for item, out in zip(items, outcomes, strict=True)}

    async def run_when_needed(self, load: Callable[[], list[Request]]) -> dict[int, Outcome] | None:
        """Like `run`, but call `load` for the requests only when the queue has room for them.

        `load` runs in a thread. Before `load`, the requests take no memory of this process. Returns
        None when the rows were given back (see `begin_no_more`). Raises the errors of `run` and any
        error of `load`.
        """
        async with self._admission:  # one call loads at a time, in the order of the calls
            await self._wanted.wait()
            requests = [] if self._no_more else await asyncio.to_thread(load)
            rows = Load(len(requests), may_return=True)
            answers = asyncio.ensure_future(self.run(requests, rows))
            await asyncio.sleep(0)  # `run` puts the rows into the queue before the next call loads
        try:
            return await answers
        except GivenBack:
            return None

    def begin_no_more(self) -> None:
        """Give back the calls of `run_when_needed` of which no row has gone to the engine.

        Later calls are given back at once. Rows of calls that have begun are answered.
        """
        self._no_more = True
        for item in [item for item in self._open if item.load.may_return and not item.load.begun]:
            self._open.discard(item)
            item.done.set_exception(GivenBack())
        self._pump()

    async def close(self) -> None:
        """Stop the engine. Rows that still wait get `EngineLost`."""
        self._break(EngineLost("the engine was closed"))
        for task in (self._recovery, self._watch):
            if task is not None:
                task.cancel()
        if self._engine is not None:
            await self._engine.stop()

    def engine_numbers(self) -> dict[str, float]:
        """The engine's measurements as of now, by name; empty without an engine."""
        engine = self._engine
        return engine.numbers() if engine is not None else {}

    def fail(self, error: EngineError) -> None:
        """Give up for a cause outside the engine. Rows that wait now or later get `error`."""
        self._break(error)

    # -- normal running ---------------------------------------------------------------------

    def _pump(self) -> None:
        """Give waiting rows to the engine while it has room."""
        running = self._ready and self._engine is not None
        if running and self._recovery is None and self._broken is None:
            while self._queue and len(self._active) < self._limit:
                item = self._queue.pop()
                if not item.done.done():  # otherwise the row was given back
                    self._submit(item)
        self.stats.in_flight, self.stats.waiting = len(self._active), len(self._queue)
        oldest = next(iter(self._active), None)
        self.stats.oldest = oldest.first if oldest is not None else 0.0
        self._measure_starving()
        # Keep enough rows queued to fill the engine once more. Queue more rows only when sorting by
        # prefix needs a window.
        full = len(self._queue) >= max(self._limit, self._queue.reach)
        if self._broken is not None or self._no_more or not full:
            self._wanted.set()
        else:
            self._wanted.clear()

    def _measure_starving(self) -> None:
        # Starving: the engine is ready and has no row. This time counts as overhead of this
        # framework.
        now = time.monotonic()
        starving = self._engine is not None and self._recovery is None and not self._active
        if starving and self._idle_since is None:
            self._idle_since = now
        elif not starving and self._idle_since is not None:
            self.stats.starved_seconds += now - self._idle_since
            self._idle_since = None

    def _submit(self, item: Item) -> asyncio.Task[bool]:
        item.first = item.first or time.monotonic()
        self.stats.in_hand += item.load.begin()
        task = asyncio.create_task(self._attempt(item))
        self._active[item] = task
        task.add_done_callback(lambda _: self._after(item))
        return task

    def _after(self, item: Item) -> None:
        self._active.pop(item, None)
        self._pump()

    async def _attempt(self, item: Item) -> bool:
        """Try one row. True when the row has an outcome, False when the engine died first."""
        assert self._engine is not None
        engine, policy = self._engine, self._policy
        item.engine = engine
        while True:
            if item.attempts:
                self.stats.count_retry(item.again)
            item.attempts, item.again = item.attempts + 1, "engine_lost"
            try:
                async with asyncio.timeout(policy.deadline):
                    answer = await engine.generate(item.asking)
                if (refusal := self._check(answer, item.request)) is not None:
                    item.refuse(answer)
                    following = await self._ask_again(item.asking, answer, refusal, item.refused)
            except RowRejected as err:
                self._finish(item, item.failure(FailureCode.ENGINE_REJECTED, str(err)))
            except RowTransient as err:
                item.transient += 1
                if item.transient < policy.max_attempts:
                    item.again = "transient"
                    await asyncio.sleep(pause(item.transient, base=policy.backoff, cap=PAUSE_CAP))
                    continue
                self._finish(item, item.failure(FailureCode.ENGINE_ERROR, str(err)))
            except TimeoutError:
                text = f"no answer within {policy.deadline:g} s (policy.row_deadline)"
                self._finish(item, item.failure(FailureCode.DEADLINE, text))
            except EngineLost as err:
                self._engine_lost(engine, err)
                return False
            except Exception as err:  # a defect of engine or shape costs this row, not the run
                logger.exception("unexpected error for row %s", item.request.number)
                text = f"{type(err).__name__}: {err}"
                self._finish(item, item.failure(FailureCode.ENGINE_ERROR, text))
            else:
                if refusal is None:
                    self._finish(item, item.accepted(answer))
                elif isinstance(following, Request):
                    item.again, item.asking = "refused", following
                    continue
                else:
                    code, text = following.code, following.message
                    self._finish(item, item.failure(code, text, output=answer.text))
            return True

    async def _same_again(
        self, request: Request, answer: Completion, refusal: Refusal, refused: int
    ) -> Request | Refusal:
        return request if refusal.again and refused < self._policy.max_attempts else refusal

    def _finish(self, item: Item, outcome: Outcome) -> None:
        if item.done.done():
            return
        self._open.discard(item)
        self.stats.in_hand -= item.end(outcome)
        self.stats.count(outcome)
        if isinstance(outcome, Completion):
            self._condemned_in_a_row = 0
            self._queue.learn(item.request, outcome.completion_tokens)
        item.done.set_result(outcome)

    def _break(self, error: EngineError) -> None:
        """Give up: every row that waits gets the error, so the unit of the row is not committed."""
        self._broken = error
        for item in self._open:
            item.done.set_exception(error)
        self._open.clear()
        self._queue.clear()
        self.stats.in_hand = 0
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
        """Kill the engine if its process lives but answers no ping for `policy.hang` seconds."""
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
        # The rows in flight notice the death by themselves. A row that does not notice it would
        # wait for ever, so its attempt is cancelled.
        await asyncio.sleep(LOST_SECONDS)
        for item, task in list(self._active.items()):
            if item.engine is engine:
                task.cancel()

    def _engine_lost(self, engine: Engine, error: EngineLost) -> None:
        if self._recovery is None and engine is self._engine and self._broken is None:
            logger.warning("engine lost with %d rows in flight: %s", len(self._active), error)
            self._recovery = asyncio.create_task(self._recover(list(self._active)))

    async def _recover(self, suspects: list[Item]) -> None:
        begun = time.monotonic()
        try:
            # Every row in flight notices the death. Wait until each row has reported the death or
            # an answer.
            await asyncio.gather(*self._active.values(), return_exceptions=True)
            await self._restart()
            await isolate(
                [item for item in suspects if not item.done.done()],
                trial=self._trial,
                restart=self._restart,
                condemn=self._condemn,
                put_back=self._queue.put_back,
            )
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

    async def _trial(self, group: list[Item]) -> list[Item]:
        """Run only these rows. Returns the rows without an outcome, because the engine died."""
        limit = self._limit
        for start in range(0, len(group), limit):
            tasks = [self._submit(item) for item in group[start : start + limit]]
            await asyncio.gather(*tasks, return_exceptions=True)
        return [item for item in group if not item.done.done()]

    async def _condemn(self, item: Item) -> None:
        self._condemned_in_a_row += 1
        text = "the engine process died, or hung, with this row alone in flight"
        self._finish(item, item.failure(FailureCode.ENGINE_CRASH, text))
        await self._restart()
        await self._canary()

    async def _canary(self) -> None:
        if self._condemned_in_a_row < CONDEMNED_BEFORE_CANARY:
            return
        assert self._engine is not None
        try:
            await self._engine.generate(HARMLESS)
        except (RowRejected, RowTransient):
            pass  # the engine answers, and nothing else is tested
        except EngineLost as err:
            raise EngineLost(
                f"the engine dies on every request, also on a harmless one: {err}"
            ) from err
        self._condemned_in_a_row = 0
