"""EchoEngine: answers every request with its own prompt's last tokens, without a model.

For dry runs (the whole way of a row at no GPU cost), for load tests of everything but the
engine, and for fault drills: `crash_on` really ends a process, as a poison row does to vLLM.
Outputs are a function of the token ids alone, so two runs give equal data sets.

Its `engine_args`:
    rows_per_second   steady rate, shared by all requests in flight (default: no limit)
    delay             seconds that every answer takes at least (default 0)
    crash_on          token ids (a list); a prompt that contains them in a row kills the engine
    reject_on         token ids; such a prompt is refused for good
    start_seconds     how long a start takes (default 0)
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gemma_batch.engines.base import EngineConfig
from gemma_batch.errors import EngineLost, EngineStartError, RowRejected, SpecError
from gemma_batch.rows import Completion, Request

ARGS = ("rows_per_second", "delay", "crash_on", "reject_on", "start_seconds")


def _contains(ids: list[int], needle: list[int]) -> bool:
    size = len(needle)
    return any(ids[i : i + size] == needle for i in range(len(ids) - size + 1))


class EchoEngine:
    """See the module's docstring."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._args = config.args
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._next_slot = 0.0

    @staticmethod
    def check_args(args: dict[str, Any]) -> None:
        """Raise `SpecError` for an argument that the echo engine does not have."""
        for key in args:
            if key not in ARGS:
                raise SpecError(
                    f"resources.engine_args: the echo engine has no argument {key!r}; "
                    f"it has {', '.join(ARGS)}"
                )

    async def start(self) -> None:
        # A child process stands for the engine core, so that its death is a real one.
        try:
            self._process = await asyncio.create_subprocess_exec(
                "sleep", "infinity", stdin=asyncio.subprocess.DEVNULL
            )
        except OSError as err:
            raise EngineStartError(f"the echo engine's process did not start: {err}") from err
        self._watch = asyncio.create_task(self._wait_for_death())
        await asyncio.sleep(self._args.get("start_seconds", 0))

    async def _wait_for_death(self) -> None:
        assert self._process is not None
        await self._process.wait()
        self._lost.set()

    async def generate(self, request: Request) -> Completion:
        if self._process is None or self._lost.is_set():
            raise EngineLost("the echo engine is not running")
        ids = request.token_ids
        if (needle := self._args.get("reject_on")) and _contains(ids, needle):
            raise RowRejected("the prompt holds the tokens of reject_on")
        if (needle := self._args.get("crash_on")) and _contains(ids, needle):
            self._process.kill()
            await self._lost.wait()
        started = time.perf_counter()
        await self._pace()
        if self._lost.is_set():
            raise EngineLost("the echo engine's process died")
        params = {**self._config.sampling, **request.sampling}
        count, samples = min(int(params.get("max_tokens", 16)), len(ids)), int(params.get("n", 1))
        text = " ".join(map(str, ids[-count:]))
        return Completion(
            outputs=[text] * samples,
            finish_reasons=["length" if count < len(ids) else "stop"] * samples,
            prompt_tokens=len(ids),
            completion_tokens=count * samples,
            seconds=time.perf_counter() - started,
        )

    async def _pace(self) -> None:
        wait = float(self._args.get("delay", 0))
        if rate := self._args.get("rows_per_second"):
            now = time.monotonic()
            self._next_slot = max(self._next_slot, now) + 1 / rate
            wait = max(wait, self._next_slot - now)
        if wait <= 0:
            await asyncio.sleep(0)
            return
        # Death must be noticed at once, as a real engine's is.
        try:
            await asyncio.wait_for(self._lost.wait(), wait)
        except TimeoutError:
            return

    async def stop(self) -> None:
        if self._process is not None and not self._lost.is_set():
            self._process.kill()
        if self._watch is not None:
            await self._watch
