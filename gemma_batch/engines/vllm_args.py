"""Checks vLLM's engine arguments without importing vLLM; runs in the driver and the GPU actor."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from collections.abc import Container
from pathlib import Path
from typing import Any

from gemma_batch.engines.base import EngineConfig
from gemma_batch.errors import SpecError

# Arguments of vLLM that the plan sets, and the field of the spec that each is set from. A value for
# the same argument in `resources.engine_args` would contradict this field.
OWN_ARGS = {
    "model": "model",
    "model_weights": "model",
    "revision": "revision",
    "tokenizer": "model",
    "tensor_parallel_size": "resources.tensor_parallel",
    "dtype": "resources.precision",
    "max_model_len": "resources.max_model_len",
    "max_num_seqs": "resources.max_num_seqs",
    "max_num_batched_tokens": "resources.max_num_batched_tokens",
    "gpu_memory_utilization": "resources.gpu_memory_utilization",
}
# The formats of weights whose loaders read numbers and never run code. vLLM's other formats, and
# those of its plug-ins, may load pickles (*.bin, *.pt), which can run code.
LOAD_FORMATS = (
    "safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "runai_streamer_sharded",
    "sharded_state", "bitsandbytes", "gguf", "dummy",
)  # fmt: skip
# Arguments with which an engine would not do the work of a run: the values that do no harm, and why
# others do.
MISFITS: dict[str, tuple[tuple[Any, ...], str]] = {
    "pipeline_parallel_size": ((1,), "an engine is spread by `resources.tensor_parallel` only"),
    "data_parallel_size": ((1,), "several engines are asked for by `resources.replicas`"),
    "skip_tokenizer_init": ((False,), "answers would have no text"),
    "runner": (("auto", "generate"), "a run answers prompts"),
    "convert": (("auto", "none"), "a run answers prompts"),
}
# Arguments that change no answer beyond rounding, each with the reason. Every argument that is not
# in this table is part of a run's fingerprint. Rounding is allowed: it also differs with the rows
# that an engine happens to compute together.
NEUTRAL_ARGS = {
    "async_scheduling": "plans the next step while the last one runs: the same steps",
    "block_size": "cuts the KV cache into blocks: the same keys and values",
    "compilation_config": "how the same arithmetic is compiled and fused",
    "disable_log_stats": "what vLLM writes into its log",
    "distributed_executor_backend": "how vLLM starts the processes of one engine",
    "enable_prefix_caching": "takes keys and values from the cache that it would compute again",
    "enforce_eager": "runs the same arithmetic without CUDA graphs",
    "kv_cache_memory_bytes": "how many rows fit into memory at a time",
    "max_cudagraph_capture_size": "which batch sizes get a CUDA graph",
    "optimization_level": "how the same arithmetic is compiled and fused",
    "prefix_cache_retention_interval": "how long the prefix cache keeps what it can compute again",
    "prefix_match_unit": "at which tokens the prefix cache may begin to help",
}
# Ways to read the same *.safetensors files. Other formats make the weights up (`dummy`), change
# them (`bitsandbytes`) or read other files (`sharded_state`, `tensorizer`, `mistral`).
NEUTRAL_FORMATS = ("safetensors", "fastsafetensors", "instanttensor", "runai_streamer")
STREAMING = "runai_streamer"  # vLLM's load format that streams weights into memory
STREAMER = "runai_model_streamer_s3"  # the package that this format needs for object storage
MOST_LOGPROBS = 20  # vLLM's default of its argument max_logprobs
STRUCTURED = "structured_outputs_config"
# One backend for all requests of an engine, which refuses a shape that it cannot enforce ("auto"
# would silently enforce less). Without the second field a weak model may write blanks for ever.
STRUCTURED_CONFIG = {"backend": "xgrammar", "disable_any_whitespace": True}
RETENTION = "prefix_cache_retention_interval"


def is_neutral(name: str, value: Any) -> bool:
    """Whether the argument changes no answer, by the lists above."""
    if name == "load_format":
        return value in NEUTRAL_FORMATS
    return name in NEUTRAL_ARGS


def streams_weights(model: str, args: dict[str, Any]) -> bool:
    """Whether vLLM reads the weights of `model` from object storage straight into memory.

    True when all of these hold: `model` is an s3:// URL; `args`, the engine arguments of the spec,
    name no other `load_format`; the streaming loader is installed (vLLM's own image has it,
    elsewhere the extra `stream` installs it); and the vLLM installed here has the argument
    `model_weights`, by which it reads weights from another place than the model's folder.
    """
    if not model.startswith("s3://") or args.get("load_format", STREAMING) != STREAMING:
        return False
    installed = importlib.util.find_spec(STREAMER) is not None
    return installed and "model_weights" in (available_args() or ())


def available_args() -> set[str] | None:
    """The names of vLLM's engine arguments, read from vLLM's source code without importing it.

    None when vLLM is not installed on this machine, for example on a laptop that only submits jobs.
    """
    return fields_in_vllm("engine/arg_utils.py", "EngineArgs")


@functools.cache
def fields_in_vllm(file: str, name: str) -> set[str] | None:
    """The fields of a class of vLLM, read from its source file without importing it.

    None when vLLM is not installed here, or has no such file or class.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(next(iter(spec.submodule_search_locations))) / file
    if not source.is_file():
        return None
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            names |= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return names or None


def engine_args(config: EngineConfig, fields: Container[str]) -> dict[str, Any]:
    """The arguments of vLLM for an engine. `fields` are the arguments that the vLLM here has.

    An argument of ours that this vLLM lacks is left out; those of the spec stand as they are.
    """
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
        "model_weights": config.weights,
        # vLLM's default would load pickles where a folder has no safetensors.
        "load_format": STREAMING if config.weights else "safetensors",
        "disable_log_stats": False,
        "seed": 0,
    }
    if config.tensor_parallel > 1:
        ours["distributed_executor_backend"] = "mp"
    if config.device == "cpu":
        ours["enforce_eager"] = True
    elif config.gpu_memory_utilization is not None:
        ours["gpu_memory_utilization"] = config.gpu_memory_utilization
    if (logprobs := config.sampling.get("logprobs") or 0) > MOST_LOGPROBS:
        ours["max_logprobs"] = logprobs
    if config.structured:
        ours[STRUCTURED] = dict(STRUCTURED_CONFIG)
    ours = {k: v for k, v in ours.items() if k in fields and v is not None}
    # By default vLLM drops a sliding layer's cache of a shared prefix after the first row, so
    # every prefix is computed twice. None keeps it; unused blocks are evicted first.
    if config.keep_prefixes and RETENTION in fields:
        ours[RETENTION] = None
    return {**ours, **config.args}


def check_args(args: dict[str, Any]) -> None:
    """Check the engine arguments of a spec (`resources.engine_args`).

    Raises `SpecError` for an argument that vLLM does not have (not checked where vLLM is not
    installed), that another field of the spec sets, that holds a secret, that lets vLLM run code
    from a model folder, or with which it would not answer prompts.
    """
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
        if key == "load_format" and args[key] not in LOAD_FORMATS:
            raise SpecError(
                f"resources.engine_args.load_format: {args[key]!r} may load pickles, which can "
                f"run code: leave it out, or use one of {', '.join(LOAD_FORMATS)}"
            )
        if key in MISFITS and args[key] not in MISFITS[key][0]:
            raise SpecError(f"resources.engine_args.{key}: {args[key]!r}: {MISFITS[key][1]}")
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
