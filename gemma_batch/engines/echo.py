"""EchoEngine: answers each request with the last tokens of its prompt, without a model.

It runs in the actor that would otherwise run vLLM, and needs no GPU. It serves dry runs (a row
takes every step of a real job at no GPU cost), load tests of everything but the engine, and fault
drills. It has a real child process, which can be killed or stopped, and it can be told to die or
to hang on certain rows. The output depends on the token ids alone, so two runs over the same input
give equal data sets.

Its arguments (`resources.engine_args`); "token ids" is a list, and a prompt matches when it
contains this list without a gap:
    rows_per_second   answers per second, for all requests together (default: no limit). With a
                      list, engines differ: the n-th start in `turns` takes the n-th value, and
                      after the last value the first again
    turns             path of a file that grows by one byte for each start of an engine
    delay             least time of each answer, in seconds (default: 0)
    tokens_per_second speed of each answer, however many run at once: an answer takes at least its
                      number of completion tokens / this value, in seconds (default: no limit)
    start_seconds     time that a start takes, in seconds (default: 0)
    fail_start_on     list of nodes, by host name or IP address; an engine on one of them never
                      starts, as on a node whose GPU or driver is broken
    fail_start_with   the message of this failure
    reject_on         token ids; a prompt that matches is refused for good (`RowRejected`)
    crash_on          token ids; a prompt that matches kills the engine's process
    hang_on           token ids; a prompt that matches stops the engine's process, which then hangs
    exit_on           token ids; a prompt that matches kills the whole actor, as the operating
                      system does when memory runs out
    tally             path of a file that grows by one byte for each answer; a test counts the
                      answers by it, also those that were made twice
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil

from gemma_batch.engines.base import REASONING, EngineConfig
from gemma_batch.engines.dry_answers import check_dry, dry_answer
from gemma_batch.engines.placing import place_anywhere
from gemma_batch.engines.token_ids import check_token_ids
from gemma_batch.errors import EngineLost, EngineStartError, RowRejected, SpecError
from gemma_batch.family.card import ModelCard
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.placement import Placement
from gemma_batch.prompts.chat import END_OF_THOUGHT
from gemma_batch.prompts.rendered import TokenPrompt, token_ids
from gemma_batch.rows import Completion, Request

if TYPE_CHECKING:
    from gemma_batch.spec import Resources

ARGS = (
    "rows_per_second", "turns", "delay", "tokens_per_second", "start_seconds", "fail_start_on",
    "fail_start_with", "reject_on", "crash_on", "hang_on", "exit_on", "tally",
)  # fmt: skip
FAILED_START = "the node's card does not answer (fail_start_on)"
# Arguments that change no answer, each with the reason (see `Engine.is_neutral`).
NEUTRAL_ARGS = {
    "rows_per_second": "only the speed",
    "turns": "only the speed",
    "delay": "only the speed",
    "tokens_per_second": "only the speed",
    "start_seconds": "only the time of a start",
    "tally": "counts the answers",
    "fail_start_on": "an engine that does not start answers nothing",
    "fail_start_with": "only a message",
}
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
BEAT_SECONDS = 0.2  # between two questions to the child process


def _contains(ids: list[int], needle: list[int]) -> bool:
    size = len(needle)
    return any(ids[i : i + size] == needle for i in range(len(ids) - size + 1))


def _own_names() -> set[str]:
    """The host name and the addresses of this node."""
    links = psutil.net_if_addrs().values()
    return {os.uname().nodename, *(one.address for addresses in links for one in addresses)}


class EchoEngine:
    """The echo engine; see the module's docstring. Its methods are those of `Engine`."""

    takes = frozenset({TokenPrompt.kind})
    computes = False

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._args = config.args
        self._drills = [
            (list(self._args[name]), act)
            for name, act in (
                ("crash_on", signal.SIGKILL),
                ("hang_on", signal.SIGSTOP),
                ("exit_on", None),
            )
            if self._args.get(name)
        ]
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._asking = asyncio.Lock()
        self._alive = asyncio.Event()  # cleared while the child process does not answer
        self._lost = asyncio.Event()
        self._next_slot = 0.0
        self._rate = 0.0
        self._tally: int | None = None

    @classmethod
    def place(
        cls, card: ModelCard, resources: Resources, hardware: Hardware, max_model_len: int
    ) -> Placement:
        """Anywhere, whatever GPU the spec asks for."""
        return place_anywhere(card, resources, max_model_len)

    @classmethod
    def prepare(cls, config: EngineConfig) -> EngineConfig:
        """Nothing is loaded."""
        return config

    @classmethod
    def check_installed(cls, device: str | None) -> None:
        """It comes with this package."""

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        """Raise `SpecError` for an argument that the echo engine does not have or cannot use."""
        for key in args:
            if key not in ARGS:
                raise SpecError(
                    f"resources.engine_args: the echo engine has no argument {key!r}; "
                    f"it has {', '.join(ARGS)}"
                )
        nodes = args.get("fail_start_on", [])
        if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
            raise SpecError(
                f"resources.engine_args: fail_start_on={nodes!r} is no list of host names or IP "
                "addresses"
            )
        if isinstance(rates := args.get("rows_per_second"), list) and not (
            rates and "turns" in args
        ):
            raise SpecError(
                f"resources.engine_args: rows_per_second={rates!r} needs at least one value, and "
                "`turns`, the path of a file that counts the engines"
            )

    @classmethod
    def is_neutral(cls, name: str, value: Any) -> bool:
        """By the list above."""
        return name in NEUTRAL_ARGS

    @classmethod
    def check_sampling(
        cls,
        params: Mapping[str, Any],
        *,
        job: Mapping[str, Any],
        args: Mapping[str, Any],
        vocab: int,
    ) -> None:
        """Raise `ValueError` for token ids that the model lacks, as for a run that is not dry."""
        check_token_ids(params, vocab)

    @classmethod
    def check_structure(cls, structure: Mapping[str, Any]) -> list[str]:
        """By the rules for an engine that computes, as for a run that is not dry."""
        return check_dry(structure)

    async def start(self) -> None:
        if _own_names().intersection(self._args.get("fail_start_on", [])):
            await asyncio.sleep(self._args.get("start_seconds", 0))
            raise EngineStartError(str(self._args.get("fail_start_with", FAILED_START)))
        # The child process plays the part of an engine core: it can really die and really hang.
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
            if path := self._args.get("tally"):
                self._tally = os.open(path, APPEND, 0o644)
            self._rate = self._my_rate()
        except OSError as err:
            raise EngineStartError(f"the echo engine did not start: {err}") from err
        self._alive.set()
        self._tasks = [
            asyncio.create_task(self._wait_for_death()),
            asyncio.create_task(self._beat()),
        ]
        await asyncio.sleep(self._args.get("start_seconds", 0))

    def _my_rate(self) -> float:
        rate = self._args.get("rows_per_second") or 0.0
        if not isinstance(rate, list):
            return float(rate)
        file = os.open(self._args["turns"], APPEND, 0o644)
        try:
            os.write(file, b".")
            turn = os.lseek(file, 0, os.SEEK_CUR)
        finally:
            os.close(file)
        return float(rate[(turn - 1) % len(rate)])

    async def _wait_for_death(self) -> None:
        assert self._process is not None
        await self._process.wait()
        self._lost.set()
        self._alive.set()  # wake the requests that wait for it; they then see the death

    async def _beat(self) -> None:
        while not self._lost.is_set():
            question = asyncio.ensure_future(self._ask())
            done, _ = await asyncio.wait([question], timeout=BEAT_SECONDS)
            if not done:
                self._alive.clear()
                await question
                self._alive.set()
            await asyncio.sleep(BEAT_SECONDS)

    async def _ask(self) -> None:
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        async with self._asking:
            if self._lost.is_set():
                return
            stdin.write(b".")
            await stdout.read(1)  # returns b"" when the process has died

    def numbers(self) -> dict[str, float]:
        return {}

    async def ping(self) -> None:
        await self._ask()
        if self._lost.is_set():
            raise EngineLost("the echo engine's process died")

    async def generate(self, request: Request) -> Completion:
        if self._process is None or self._lost.is_set():
            raise EngineLost("the echo engine is not running")
        ids = token_ids(request.prompt)
        if (needle := self._args.get("reject_on")) and _contains(ids, needle):
            raise RowRejected("the prompt holds the tokens of reject_on")
        for needle, act in self._drills:
            if _contains(ids, needle):
                await self._drill(act)
        params = {**self._config.sampling, **request.sampling}
        count, samples = min(int(params.get("max_tokens", 16)), len(ids)), int(params.get("n", 1))
        started = time.perf_counter()
        await self._pace(count)
        if not self._alive.is_set():
            await self._alive.wait()
        if self._lost.is_set():
            raise EngineLost("the echo engine's process died")
        if self._tally is not None:
            os.write(self._tally, b".")
        text, reason = " ".join(map(str, ids[-count:])), "length" if count < len(ids) else "stop"
        if structure := params.get("structured_outputs"):
            text, reason = dry_answer(structure, ids), "stop"
            if self._args.get(REASONING):  # the prompt ends inside a thought
                text = f"{END_OF_THOUGHT}{text}"
        return Completion(
            outputs=[text] * samples,
            finish_reasons=[reason] * samples,
            prompt_tokens=len(ids),
            completion_tokens=count * samples,
            seconds=time.perf_counter() - started,
        )

    async def _drill(self, act: signal.Signals | None) -> None:
        if act is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            assert self._process is not None
            self._process.send_signal(act)
            await self._lost.wait()

    async def _pace(self, tokens: int) -> None:
        wait = float(self._args.get("delay", 0))
        if speed := self._args.get("tokens_per_second"):
            wait = max(wait, tokens / speed)
        if self._rate:
            now = time.monotonic()
            self._next_slot = max(self._next_slot, now) + 1 / self._rate
            wait = max(wait, self._next_slot - now)
        if wait <= 0:
            await asyncio.sleep(0)
            return
        # Wait, but end at once when the process dies, as a request to a real engine does.
        try:
            await asyncio.wait_for(self._lost.wait(), wait)
        except TimeoutError:
            return

    async def kill(self) -> None:
        if self._process is not None and not self._lost.is_set():
            self._process.kill()

    async def stop(self) -> None:
        await self.kill()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        if self._tally is not None:
            os.close(self._tally)
            self._tally = None
