"""VllmEngine: one `AsyncLLM` in this process, the only module that imports vllm.

One engine core process per actor, `mp` executor for tensor parallel within the node, token ids
in, final outputs only. The vLLM surface is checked by feature, not by version: an argument that
the vLLM at hand does not have is dropped when it is ours and refused when it is the user's.
Trade-off: `AsyncLLM` costs one asyncio task per request in flight; it isolates a bad row and
drains continuously, which `LLM.generate` does not.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import difflib
import importlib
import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from gemma_batch.engines.base import EngineConfig
from gemma_batch.errors import EngineLost, EngineStartError, RowRejected, RowTransient, SpecError
from gemma_batch.rows import Completion, Request

logger = logging.getLogger(__name__)

# What the plan or the spec's own fields set; a pass-through of the same name would contradict it.
OWN_ARGS = {
    "model": "model",
    "revision": "revision",
    "tokenizer": "model",
    "tensor_parallel_size": "resources.tensor_parallel",
    "dtype": "resources.precision",
    "max_model_len": "resources.max_model_len",
    "max_num_seqs": "resources.max_num_seqs",
    "max_num_batched_tokens": "resources.max_num_batched_tokens",
    "gpu_memory_utilization": "resources.gpu_memory_utilization",
}
PICKLES = ("auto", "hf", "pt", "npcache")  # formats that can end in a *.bin or *.pt


def available_args() -> set[str] | None:
    """Names of vLLM's engine arguments, read from its source without importing it.

    None when vLLM is not installed where this runs (a submitting laptop, say).
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(next(iter(spec.submodule_search_locations))) / "engine" / "arg_utils.py"
    if not source.is_file():
        return None
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name in {"EngineArgs", "AsyncEngineArgs"}:
            names |= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return names or None


def _cpu_environment(config: EngineConfig) -> dict[str, str]:
    # Whole GiB are all that vLLM takes here.
    env = {"VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(config.cpu_kv_cache_gib or 1)))}
    if config.cpu_threads is not None:
        cores = sorted(os.sched_getaffinity(0))
        threads = max(1, config.cpu_threads)
        if config.tensor_parallel > 1:
            ranks = [
                cores[i * threads % len(cores) :][:threads] for i in range(config.tensor_parallel)
            ]
            env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, r)) for r in ranks)
        else:
            # Several engines share the node: none may pin, spinning threads would starve another.
            env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            env["OMP_NUM_THREADS"] = str(threads)
    return env


class VllmEngine:
    """See the module's docstring."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._engine: Any = None
        self._children: list[psutil.Process] = []
        self._base: dict[str, Any] = {}
        self._plain_params: Any = None
        self._prompt: Callable[[list[int]], Any] = _plain_prompt
        self._refusals: tuple[type[Exception], ...] = (ValueError, TypeError)
        self._count = 0

    @staticmethod
    def check_args(args: dict[str, Any]) -> None:
        """Raise `SpecError` for an argument that vLLM does not have or the spec already sets."""
        known = available_args()
        for key in args:
            if key == "hf_token":
                raise SpecError(
                    "resources.engine_args.hf_token: a secret does not belong into a spec, "
                    "which is kept with the output: set HF_TOKEN in the environment"
                )
            if key == "trust_remote_code" and args[key]:
                raise SpecError(
                    "resources.engine_args.trust_remote_code: code out of a model folder is never "
                    "run; no Gemma needs it"
                )
            if key == "load_format" and args[key] in PICKLES:
                raise SpecError(
                    f"resources.engine_args.load_format: {args[key]!r} may load pickles, which can "
                    "run code: leave it out (safetensors), or use 'dummy' or a streaming loader"
                )
            if key in OWN_ARGS:
                raise SpecError(
                    f"resources.engine_args.{key}: set it as `{OWN_ARGS[key]}`, the plan uses it"
                )
            if known is not None and key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise SpecError(
                    f"resources.engine_args: the vLLM installed here has no argument {key!r}{hint}"
                )

    async def start(self) -> None:
        before = {p.pid for p in psutil.Process().children(recursive=True)}
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(None, self._build)
        try:
            self._engine = await asyncio.wait_for(task, self._config.start_timeout)
        except TimeoutError:
            self._remember_children(before)
            await self.stop()
            raise EngineStartError(
                f"vLLM was not ready after {self._config.start_timeout:g} s "
                "(policy.engine_start_timeout)"
            ) from None
        except EngineStartError:
            self._remember_children(before)
            await self.stop()
            raise
        self._remember_children(before)

    def _remember_children(self, before: set[int]) -> None:
        self._children = [
            p for p in psutil.Process().children(recursive=True) if p.pid not in before
        ]

    def _build(self) -> Any:
        config = self._config
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if config.device == "cpu":
            os.environ.update(_cpu_environment(config))
        try:
            import vllm.exceptions
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM

            args = AsyncEngineArgs(**self._engine_args(AsyncEngineArgs))
            engine = AsyncLLM.from_engine_args(args, usage_context=UsageContext.LLM_CLASS)
        except Exception as err:  # vLLM raises whatever its many parts raise
            raise EngineStartError(f"vLLM did not start: {type(err).__name__}: {err}") from err
        # Older vLLM has only the validation error of this family.
        named = ("VLLMClientError", "VLLMValidationError")
        classes = [getattr(vllm.exceptions, name, None) for name in named]
        self._refusals = (ValueError, TypeError, *(c for c in classes if c is not None))
        # Newer vLLM takes inputs that need no rendering; older knows only the plain prompt.
        inputs = importlib.import_module("vllm.inputs")
        engine_inputs = getattr(inputs, "engine", inputs)
        self._prompt = getattr(engine_inputs, "tokens_input", _plain_prompt)
        differing = getattr(engine.model_config, "get_diff_sampling_param", None)
        self._base = {**(differing() if differing else {}), **config.sampling}
        self._base.setdefault("max_tokens", 256)
        return engine

    def _engine_args(self, accepts: type) -> dict[str, Any]:
        config = self._config
        fields = accepts.__dataclass_fields__  # type: ignore[attr-defined]
        ours: dict[str, Any] = {
            "model": config.model,
            "revision": config.revision,
            "dtype": config.dtype,
            "quantization": config.quantization,
            "tensor_parallel_size": config.tensor_parallel,
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "max_num_batched_tokens": config.max_num_batched_tokens,
            "language_model_only": True,
            "load_format": "safetensors",  # vLLM's own default would fall back to pickles
            "enable_log_requests": False,
            "disable_log_stats": True,
            "seed": 0,
        }
        if config.tensor_parallel > 1:
            ours["distributed_executor_backend"] = "mp"
        if config.device == "cpu":
            ours["enforce_eager"] = True
        elif config.gpu_memory_utilization is not None:
            ours["gpu_memory_utilization"] = config.gpu_memory_utilization
        ours = {k: v for k, v in ours.items() if k in fields and v is not None}
        return {**ours, **config.args}

    async def generate(self, request: Request) -> Completion:
        if self._engine is None or self._engine.errored:
            raise EngineLost("vLLM's engine core is not running")
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = self._params(request)
        self._count += 1
        started = time.perf_counter()
        final: Any = None
        try:
            prompt = self._prompt(request.token_ids)
            async for output in self._engine.generate(prompt, params, f"r{self._count}"):
                final = output
        except EngineDeadError as err:
            raise EngineLost(f"vLLM's engine core died: {err}") from err
        except EngineGenerateError as err:
            if self._engine.errored:
                raise EngineLost(f"vLLM's engine core died: {err.__cause__ or err}") from err
            raise RowTransient(f"vLLM failed: {err.__cause__ or err}") from err
        except self._refusals as err:
            if self._engine.errored:
                raise EngineLost(f"vLLM's engine core died: {err}") from err
            raise RowRejected(str(err)) from err
        return self._completion(final, time.perf_counter() - started)

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if not request.sampling and self._plain_params is not None:
            return self._plain_params
        try:
            params = SamplingParams(
                **{**self._base, **request.sampling}, output_kind=RequestOutputKind.FINAL_ONLY
            )
        except self._refusals as err:
            raise RowRejected(f"vLLM refuses the sampling parameters: {err}") from err
        if not request.sampling:
            self._plain_params = params
        return params

    def _completion(self, final: Any, seconds: float) -> Completion:
        if final is None or not final.outputs:
            raise RowTransient("vLLM ended the request without an output")
        samples = sorted(final.outputs, key=lambda sample: sample.index)
        reasons = [sample.finish_reason or "unknown" for sample in samples]
        if any(reason in {"abort", "error"} for reason in reasons):
            raise RowTransient(f"vLLM ended the request with {reasons!r}")
        logprobs = None
        if any(sample.logprobs for sample in samples):
            logprobs = json.dumps([list(_logprobs(sample.logprobs)) for sample in samples])
        return Completion(
            outputs=[sample.text for sample in samples],
            finish_reasons=reasons,
            prompt_tokens=len(final.prompt_token_ids or ()),
            completion_tokens=sum(len(sample.token_ids) for sample in samples),
            cached_tokens=final.num_cached_tokens or 0,
            seconds=seconds,
            logprobs=logprobs,
        )

    async def ping(self) -> None:
        engine = self._engine
        if engine is None or engine.errored:
            raise EngineLost("vLLM's engine core is not running")
        from vllm.v1.engine.exceptions import EngineDeadError

        # Any question that the core's own loop answers between two steps will do.
        question = getattr(engine, "is_sleeping", None)
        if question is None:
            return
        try:
            await question()
        except EngineDeadError as err:
            raise EngineLost(f"vLLM's engine core died: {err}") from err

    async def kill(self) -> None:
        for process in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    async def stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            loop = asyncio.get_running_loop()
            try:
                await asyncio.wait_for(loop.run_in_executor(None, engine.shutdown), 20)
            except Exception as err:  # a dead engine may fail to; its processes are ended below
                logger.info("vLLM did not shut down by itself: %r", err)
        await self.kill()
        self._children = []


def _plain_prompt(token_ids: list[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": token_ids}


def _logprobs(positions: Any) -> Iterator[list[dict[str, Any]]]:
    for position in positions or ():
        yield [
            {"id": token, "token": item.decoded_token, "logprob": item.logprob, "rank": item.rank}
            for token, item in position.items()
        ]
