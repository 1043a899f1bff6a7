"""Host: one engine and its feed, on an event loop in a separate thread (GPU actor).

The host answers requests. It knows nothing about units, commits, storage or Ray. The worker of a
run hosts its engine here. Any other process that wants answers from one engine can use a host too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from gemma_batch.answering.again import Again
from gemma_batch.answering.feed import Feed
from gemma_batch.answering.stats import FeedStats
from gemma_batch.engines.base import Engine, EngineConfig, engine_class, make_engine
from gemma_batch.errors import EngineError, GemmaBatchError
from gemma_batch.rows import Completion, Outcome, Refusal, Request
from gemma_batch.units.row_policy import Order, RowPolicy

CLOSE_SECONDS = 60.0  # the longest time that `close` waits
T = TypeVar("T")


class Host:
    """Hosts one engine, which starts to load at once. Any thread may call the methods.

    The event loop runs in a separate thread, so work on the caller's threads cannot delay the
    engine. `in_flight` (requests), `policy`, `order` and `check` go to the `Feed`. A row whose
    answer `check` refuses is asked again `retries` times (see `again.py`). `on_ready` is called in
    a thread before the first request goes to the engine. `stats` are totals to go on with.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        in_flight: int,
        policy: RowPolicy | None = None,
        order: Order = "auto",
        check: Callable[[Completion, Request], Refusal | None] = lambda completion, request: None,
        retries: int = 0,
        on_ready: Callable[[], object] | None = None,
        stats: FeedStats | None = None,
    ) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._feed = Feed(
            self._make_engine,
            in_flight=in_flight,
            policy=policy,
            order=order,
            check=check,
            ask_again=Again(lambda: self._config, retries=retries),
            stats=stats,
        )
        self._started = self._submit(self._start(on_ready))

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _make_engine(self) -> Engine:
        return make_engine(self._config)

    async def _start(self, on_ready: Callable[[], object] | None) -> None:
        try:
            prepare = engine_class(self._config.engine).prepare
            self._config = await asyncio.to_thread(prepare, self._config)
            await self._feed.start(on_ready=on_ready)
        except EngineError:
            raise  # the feed has given the error to every row that waits
        except Exception as err:
            cause = str(err) if isinstance(err, GemmaBatchError) else repr(err)
            self._feed.fail(EngineError(f"the engine could not be started: {cause}"))
            raise

    @property
    def stats(self) -> FeedStats:
        """The running totals of the feed."""
        return self._feed.stats

    def run(self, requests: Sequence[Request]) -> dict[int, Outcome]:
        """Answer the requests: one outcome per request, by row number. Waits for all outcomes.

        Raises `EngineError` when the engine cannot be started or kept alive.
        """
        return self._submit(self._feed.run(list(requests))).result()

    def run_when_needed(self, load: Callable[[], list[Request]]) -> dict[int, Outcome] | None:
        """Like `run`, but call `load` for the requests only when the feed has room for them.

        Returns None when the rows were given back (see `begin_no_more`). Raises the errors of `run`
        and any error of `load`.
        """
        return self._submit(self._feed.run_when_needed(load)).result()

    def begin_no_more(self) -> None:
        """From now on, calls of `run_when_needed` of which no row has begun are given back."""
        self._loop.call_soon_threadsafe(self._feed.begin_no_more)

    def engine_numbers(self) -> dict[str, float]:
        """The engine's measurements as of now, by name; empty without an engine."""
        return self._feed.engine_numbers()

    def close(self) -> None:
        """End the engine's processes. Requests that wait get `EngineLost`.

        Raises TimeoutError when this takes more than `CLOSE_SECONDS`.
        """
        self._submit(self._feed.close()).result(timeout=CLOSE_SECONDS)
