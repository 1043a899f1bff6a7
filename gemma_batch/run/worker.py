"""The GPU actor: feeds one engine with several units at once and commits their parts itself.

Ray Data calls it in several threads, one unit per call. The engine lives on an event loop of
its own, so that nothing Ray does on its threads can hold it up, and starts loading while the
first units are still being read. Only receipts leave this process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import pyarrow as pa

from gemma_batch.engines.base import make_engine
from gemma_batch.errors import EngineError, GemmaBatchError
from gemma_batch.rows import Outcome
from gemma_batch.run.commit import commit_unit, committed_receipt
from gemma_batch.run.feed import Feed
from gemma_batch.run.job import RouteJob
from gemma_batch.run.payload import decode, decode_head
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.models import fetch_weights

logger = logging.getLogger(__name__)
REPORT_SECONDS = 1.0
T = TypeVar("T")


class Board:
    """A small actor that holds the workers' live numbers; progress only, never the truth."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, Any]] = {}

    def put(self, worker: str, numbers: dict[str, Any]) -> None:
        """Replace the numbers of one worker."""
        self._numbers[worker] = numbers

    def get(self) -> dict[str, dict[str, Any]]:
        """The numbers of all workers that ever reported."""
        return self._numbers


class Worker:
    """One replica of one route; the callable class of the pipeline's last stage."""

    def __init__(self, job: RouteJob, board: Any = None) -> None:
        self._job = job
        self._store = open_store(job.output)
        self._board = board
        self._name = f"{os.uname().nodename}-{uuid.uuid4().hex[:8]}"
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._feed = Feed(self._make_engine, in_flight=job.in_flight, policy=job.policy)
        self._config = job.engine
        self._ready = self._submit(self._start())
        self._closed = threading.Event()
        if board is not None:
            threading.Thread(target=self._report, name="report", daemon=True).start()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _make_engine(self) -> Any:
        return make_engine(self._config)

    async def _start(self) -> None:
        if self._job.engine.engine == "vllm":
            try:
                path = await asyncio.to_thread(fetch_weights, self._job.model, self._job.revision)
            except Exception as err:
                self._feed.fail(EngineError(f"the model's weights could not be fetched: {err}"))
                raise
            self._config = dataclasses.replace(self._job.engine, model=path)
        await self._feed.start()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One unit in, its receipt out; or `{"error": ...}` when engine or storage gave up."""
        receipts = [
            json.dumps(self._run_unit(unit.as_py(), rows))
            for unit, rows in zip(batch["unit"], batch["rows"], strict=True)
        ]
        return pa.table({"receipt": pa.array(receipts, pa.string())})

    def _run_unit(self, head: str, rows: Any) -> dict[str, Any]:
        if not rows.is_valid:
            return dict(json.loads(head))
        try:
            return self._outcomes(head, rows.as_buffer())
        except GemmaBatchError as err:
            return {"error": str(err)}

    def _outcomes(self, head: str, rows: Any) -> dict[str, Any]:
        started = time.time()
        # Ray may hand out a unit again after a death between the commit and the receipt.
        done = committed_receipt(self._store, decode_head(head)[1])
        if done is not None:
            return done
        prepared = decode(head, rows)
        outcomes: dict[int, Outcome] = dict(prepared.failures)
        for failure in prepared.failures.values():
            self._feed.stats.count(failure)
        outcomes.update(self._submit(self._feed.run(prepared.requests)).result())
        stats = self._feed.stats
        facts = {
            "started": started,
            "worker": self._name,
            "engine_ready": stats.ready_at,
            "engine_starts": stats.engine_starts,
        }
        return commit_unit(self._store, self._job, prepared, outcomes, facts)

    def _report(self) -> None:
        import ray

        while not self._closed.wait(REPORT_SECONDS):
            numbers = {**dataclasses.asdict(self._feed.stats), "route": self._job.route}
            try:
                self._board.put.remote(self._name, numbers)
            except ray.exceptions.RayError as err:
                logger.debug("progress was not reported: %s", err)

    def close(self) -> None:
        """End the engine's processes."""
        self._closed.set()
        self._submit(self._feed.close()).result(timeout=60)

    def __del__(self) -> None:
        if hasattr(self, "_closed") and not self._closed.is_set():
            self.close()
