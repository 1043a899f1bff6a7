"""VllmEngine: one vLLM engine, stepped by a thread of the GPU actor; only this module imports vllm.

Each actor has one engine core process; for tensor parallelism the core starts workers on the same
node (vLLM's `mp` executor). Token ids go in, and only final outputs come out. The module supports
several versions of vLLM by looking for features, not at version numbers: where vLLM lacks an
argument, we leave out our own value and refuse a user's value.

It uses `LLMEngine`, the class below `vllm.LLM`, and not `AsyncLLM`. A request takes the same way
through vLLM as with `LLM.generate`, without an asyncio task and a queue per request. But the engine
is fed all the time, and one bad row does not fail the other rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from gemma_batch.engines.base import REASONING, EngineConfig
from gemma_batch.engines.cpu_cores import CORES, cpu_environment, leave_workers_alone
from gemma_batch.engines.forking import Template, build_engine, helpers, start_template
from gemma_batch.engines.numbers import SchedulerNumbers
from gemma_batch.engines.placing import place_model
from gemma_batch.engines.stepper import Stepper
from gemma_batch.engines.turns import turn
from gemma_batch.engines.vllm_answers import completion_of
from gemma_batch.engines.vllm_args import (
    STRUCTURED,
    check_args,
    engine_args,
    is_neutral,
)
from gemma_batch.engines.vllm_installed import check_installed
from gemma_batch.engines.vllm_sampling import check_sampling
from gemma_batch.engines.vllm_words import refusals
from gemma_batch.engines.weights import check_loaded, with_weights
from gemma_batch.errors import (
    EngineError,
    EngineLost,
    EngineStartError,
    RowRejected,
    RowTransient,
    UserError,
)
from gemma_batch.family.card import ModelCard
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.placement import Placement
from gemma_batch.prompts.rendered import TokenPrompt, token_ids
from gemma_batch.rows import Completion, Request

if TYPE_CHECKING:
    from gemma_batch.spec import Resources

logger = logging.getLogger(__name__)

# Safe to import before a fork: vLLM's front end has imported exactly these before it forks.
FRONT_END = ["vllm.engine.arg_utils", "vllm.v1.engine.llm_engine", "vllm.v1.engine.core"]
DEATH_SECONDS = 0.25  # between two checks that the core's processes are alive


def _compiled_mark(config: EngineConfig) -> Path:
    """A file that exists once an engine of this kind has filled vLLM's compile cache on this node.

    It lies in the folder of this cache, so that it is deleted together with the cache.
    """
    import vllm
    from vllm import envs

    plain = dataclasses.replace(config, sampling={}, files=None, fork_template=False)
    kind = (vllm.__version__, dataclasses.astuple(plain))
    digest = hashlib.sha256(repr(kind).encode()).hexdigest()[:16]
    return Path(envs.VLLM_CACHE_ROOT) / f"gemma-batch-compiled-{digest}"


class VllmEngine:
    """One vLLM engine; see the module's docstring. Its methods are those of `Engine`."""

    takes = frozenset({TokenPrompt.kind})
    computes = True

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._engine: Any = None
        self._template: Template | None = None
        self._stepper: Stepper | None = None
        self._watch: asyncio.Task[None] | None = None
        self._children: list[psutil.Process] = []
        self._cores: list[Any] = []
        self._base: dict[str, Any] = {}
        self._plain_params: Any = None
        self._tokenizer: Any = None
        self._numbers = SchedulerNumbers()
        self._prompt: Callable[[list[int]], Any] = _plain_prompt
        self._refusals: tuple[type[Exception], ...] = (ValueError, TypeError)

    @classmethod
    def check_installed(cls, device: Literal["cpu", "gpu"] | None) -> None:
        """By the rules in `engines/vllm_installed.py`; does not import vLLM."""
        check_installed(device)

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        """Raise `SpecError` for an argument that vLLM does not have or the spec already sets."""
        check_args(args)

    @classmethod
    def is_neutral(cls, name: str, value: Any) -> bool:
        """By the lists in `engines/vllm_args.py`."""
        return is_neutral(name, value)

    @classmethod
    def check_sampling(
        cls,
        params: Mapping[str, Any],
        *,
        job: Mapping[str, Any],
        args: Mapping[str, Any],
        vocab: int,
    ) -> None:
        """Raise `ValueError` for parameters that vLLM, started like this, would refuse."""
        check_sampling(params, job=job, args=args, vocab=vocab)

    @classmethod
    def check_structure(cls, structure: Mapping[str, Any]) -> list[str]:
        """By the rules in `engines/enforced.py`, and by xgrammar where it is installed."""
        from gemma_batch.engines.enforced import check_structure

        return check_structure(structure)

    @classmethod
    def place(
        cls, card: ModelCard, resources: Resources, hardware: Hardware, max_model_len: int
    ) -> Placement:
        """By the hardware. Raises `PlacementError`."""
        return place_model(card, resources, hardware, max_model_len)

    @classmethod
    def prepare(cls, config: EngineConfig) -> EngineConfig:
        """With a model's weights on this node, or their address where vLLM streams them."""
        return with_weights(config)

    async def start(self) -> None:
        config = self._config
        try:
            check_installed(None)
        except UserError as err:  # on this node; another node may have it
            raise EngineStartError(str(err)) from None
        self._template = await asyncio.to_thread(self._prepare)
        async with contextlib.AsyncExitStack() as turns:
            if config.device == "gpu":
                # The first engine of a kind on a node compiles; the others wait for its cache.
                compiled = await asyncio.to_thread(_compiled_mark, config)
                await turns.enter_async_context(turn(compiled.name, unless=compiled.exists))
                if config.engines_per_gpu > 1:
                    device = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
                    await turns.enter_async_context(turn(f"gpu-{device}"))
                await self._start()
                with contextlib.suppress(OSError):
                    compiled.parent.mkdir(parents=True, exist_ok=True)
                    compiled.touch()
            else:
                await self._start()

    async def _start(self) -> None:
        before = {p.pid for p in psutil.Process().children(recursive=True)}
        others = multiprocessing.active_children()
        try:
            self._engine = await self._built()
            await asyncio.to_thread(check_loaded, self._config)
        except TimeoutError:
            self._remember_children(before)
            await self.stop()
            raise EngineStartError(
                f"vLLM was not ready after {self._config.start_timeout:g} s "
                "(policy.engine_start_timeout)"
            ) from None
        except EngineError:
            self._remember_children(before)
            await self.stop()
            raise
        self._remember_children(before)
        self._cores = [p for p in multiprocessing.active_children() if p not in others]
        if self._config.device == "cpu":
            leave_workers_alone(self._children)
        self._stepper = Stepper(self._engine, getattr(self._engine, "is_sleeping", _no_question))
        self._watch = asyncio.create_task(self._watch_for_death(self._stepper))
        await self._try_out()

    async def _try_out(self) -> None:
        """Ask for one token with the job's sampling parameters.

        vLLM looks at some of them only now. Raises `EngineError` when vLLM refuses them: every row
        would be refused, and another start would not help.
        """
        short = Request(-1, TokenPrompt([2]), {"max_tokens": 1, "min_tokens": 0})
        try:
            async with asyncio.timeout(self._config.start_timeout):
                await self.generate(short)
        except RowRejected as err:
            await self.stop()
            raise EngineError(f"vLLM refuses every row of this job: {err}") from None
        except RowTransient as err:
            logger.warning("a first request failed: %s", err)
        except (EngineLost, TimeoutError) as err:
            await self.stop()
            raise EngineStartError(f"vLLM did not answer a first request: {err!r}") from None

    async def _built(self) -> Any:
        """Run `_build` in a thread. When the wait ends early, the late engine is shut down there.

        Raises `TimeoutError` after `start_timeout` seconds, and `EngineStartError`.
        """
        given_up = threading.Event()
        task = asyncio.get_running_loop().run_in_executor(None, self._build, given_up)
        try:
            return await asyncio.wait_for(task, self._config.start_timeout)
        finally:
            given_up.set()

    def _remember_children(self, before: set[int]) -> None:
        before = before | helpers()
        self._children = [
            p for p in psutil.Process().children(recursive=True) if p.pid not in before
        ]

    def _prepare(self) -> Template | None:
        """Set the environment variables that vLLM reads, and start the template."""
        config = self._config
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # a core in its own process
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if config.weights and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
            # Object stores other than AWS rarely have a host name for each bucket.
            os.environ.setdefault("RUNAI_STREAMER_S3_ENDPOINT", endpoint)
            os.environ.setdefault("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
        if config.device == "cpu":
            os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
            os.environ.update(cpu_environment(config))
            os.sched_setaffinity(0, CORES)  # of this thread; the template inherits it
        # vLLM binds to NUMA nodes by replacing the program of spawned processes: no fork there.
        if not config.fork_template or config.args.get("numa_bind"):
            return None
        cpu = ["vllm.v1.worker.cpu_worker"] if config.device == "cpu" else []
        return start_template([*FRONT_END, *cpu])

    def _build(self, given_up: threading.Event) -> Any:
        config = self._config
        if config.device == "cpu":
            os.sched_setaffinity(0, CORES)  # of this thread; spawned processes inherit it
        try:
            import vllm.config
            import vllm.exceptions
            from vllm.engine.arg_utils import EngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine import utils
            from vllm.v1.engine.llm_engine import LLMEngine

            self._refusals = refusals(vllm.exceptions)
            self._sampling_params(config.sampling)  # before memory is taken and weights are read
            given = engine_args(config, EngineArgs.__dataclass_fields__)
            if given.get(REASONING) and isinstance(given.get(STRUCTURED), dict):
                # vLLM writes the parser's name into this argument, and needs an object for that.
                given[STRUCTURED] = vllm.config.StructuredOutputsConfig(**given[STRUCTURED])
            args = EngineArgs(**given)
            make = functools.partial(
                LLMEngine.from_engine_args, args, usage_context=UsageContext.LLM_CLASS
            )
            engine = build_engine(make, self._template, utils, given_up)
            if given_up.is_set():
                engine.engine_core.shutdown()
                raise TimeoutError("it came up after it was given up")
        except RowRejected as err:
            raise EngineError(f"every row of this job would fail: {err}") from None
        except Exception as err:  # vLLM can raise any type of error here
            raise EngineStartError(f"vLLM did not start: {type(err).__name__}: {err}") from err
        # Keep the scheduler's statistics of each step; keep none per token or request.
        engine.logger_manager, engine.log_stats = self._numbers, False
        # Newer vLLM takes token inputs that skip its renderer; older vLLM only a plain prompt.
        inputs = importlib.import_module("vllm.inputs")
        engine_inputs = getattr(inputs, "engine", inputs)
        self._prompt = getattr(engine_inputs, "tokens_input", _plain_prompt)
        differing = getattr(engine.model_config, "get_diff_sampling_param", None)
        self._base = {**(differing() if differing else {}), **config.sampling}
        self._base.setdefault("max_tokens", 256)
        self._tokenizer = engine.tokenizer
        return engine

    async def _watch_for_death(self, stepper: Stepper) -> None:
        # vLLM does not notice a core that was killed: it would wait for its next message for ever.
        while stepper.lost is None:
            await asyncio.sleep(DEATH_SECONDS)
            if not all(core.is_alive() for core in self._cores):
                stepper.lose(EngineLost("vLLM's engine core died: its process is gone"))

    async def generate(self, request: Request) -> Completion:
        if self._stepper is None:
            raise EngineLost("vLLM's engine core is not running")
        params = self._params(request)
        started = time.perf_counter()
        try:
            final = await self._stepper.answer(self._prompt(token_ids(request.prompt)), params)
        except Exception as err:
            raise self._meaning(err) from err
        seconds = time.perf_counter() - started
        marks = params.skip_special_tokens is False
        return completion_of(final, self._config, seconds, self._tokenizer if marks else None)

    def _meaning(self, err: Exception) -> Exception:
        """Translate an error of vLLM into one of ours: about one row, or about the engine."""
        from vllm.v1.engine.exceptions import EngineDeadError

        lost = self._stepper.lost if self._stepper is not None else None
        if isinstance(err, EngineLost):
            return EngineLost(str(err))
        if lost is not None or isinstance(err, EngineDeadError):
            return EngineLost(f"vLLM's engine core died: {err}")
        if isinstance(err, self._refusals):
            return RowRejected(str(err))
        return RowTransient(f"vLLM failed: {err.__cause__ or err!r}")

    def _params(self, request: Request) -> Any:
        if request.sampling:
            return self._sampling_params({**self._base, **request.sampling})
        if self._plain_params is None:
            self._plain_params = self._sampling_params(self._base)
        return self._plain_params

    def _sampling_params(self, given: dict[str, Any]) -> Any:
        """vLLM's object for these parameters. Raises `RowRejected` when vLLM refuses them."""
        import vllm.sampling_params as theirs

        if (stops := self._config.stop_token_ids) and not given.get("ignore_eos"):
            given = {**given, "stop_token_ids": [*(given.get("stop_token_ids") or ()), *stops]}
        detect, shape = "repetition_detection", "structured_outputs"
        try:
            if given.get(shape):
                given = {**given, shape: theirs.StructuredOutputsParams(**given[shape])}
            if given.get(detect):
                kind = getattr(theirs, "RepetitionDetectionParams", dict)
                given = {**given, detect: kind(**given[detect])}
            return theirs.SamplingParams(**given, output_kind=theirs.RequestOutputKind.FINAL_ONLY)
        except self._refusals as err:
            raise RowRejected(f"vLLM refuses the sampling parameters: {err}") from err

    def numbers(self) -> dict[str, float]:
        return self._numbers.values

    async def ping(self) -> None:
        if self._stepper is None:
            raise EngineLost("vLLM's engine core is not running")
        try:
            await self._stepper.sign_of_life()
        except Exception as err:
            raise self._meaning(err) from err

    async def kill(self) -> None:
        for process in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    async def stop(self) -> None:
        engine, self._engine = self._engine, None
        stepper, self._stepper = self._stepper, None
        if self._watch is not None:
            self._watch.cancel()
        if stepper is not None:
            stepper.lose(EngineLost("the engine was stopped"))
        if engine is not None:
            loop = asyncio.get_running_loop()
            try:
                shutdown = loop.run_in_executor(None, engine.engine_core.shutdown)
                await asyncio.wait_for(shutdown, 20)
            except Exception as err:  # from a dead engine; its processes are killed below
                logger.info("vLLM did not shut down by itself: %r", err)
        await self.kill()
        self._children = []


def _no_question() -> None:
    """The stepper's probe for a vLLM without `is_sleeping`: then only steps are signs of life."""


def _plain_prompt(token_ids: list[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": token_ids}
