"""The engine protocol: everything that the rest of the house asks of an engine.

Before money is spent, planning asks an engine class whether it knows its arguments and where its
model goes. In the GPU actor the host asks it to fetch what it loads; then the feed starts it.

An engine knows nothing about units, retries or commits. It is started, answers any number of
requests at once, may die, and can then be stopped and replaced by a fresh one. What an error
means is its type: `RowRejected` (this row, for good), `RowTransient` (this row, for now),
`EngineLost` (every row in flight).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from gemma_batch.family.card import ModelCard
from gemma_batch.family.hardware import Hardware
from gemma_batch.family.placement import Placement
from gemma_batch.rows import Completion, Request
from gemma_batch.storage.models import ModelFiles

if TYPE_CHECKING:
    from gemma_batch.spec import Resources

# The argument that tells an engine how a model marks the end of its thoughts. An engine that
# enforces a shape then lets the model think first.
REASONING = "reasoning_parser"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything an engine needs to start; plain data that travels to the GPU actor.

    `sampling` holds the job's sampling parameters; a request's own override them.
    `cpu_threads` are a CPU engine's share of the node's cores (None: all of them).
    `model` is a local folder once the engine starts; `weights` is the s3:// folder that it reads
    the weights from, where that is another. `files` is the model as it was planned.
    `keep_prefixes` says that rows which share a prefix come one after the other.
    `stop_token_ids` end an answer besides the tokens that the model's files and the request name.
    `structured` says that answers have a shape that the engine enforces. `token_logprobs` says that
    log probabilities are for the shape (`Completion.token_logprobs`) and not for a column.
    `args` are passed through to the engine, checked by `check_args` at plan time. `fork_template`
    says whether its processes are forked from a template (see `forking.py`).
    """

    engine: str
    model: str
    revision: str | None = None
    weights: str | None = None
    files: ModelFiles | None = None
    device: Literal["cpu", "gpu"] = "gpu"
    tensor_parallel: int = 1
    engines_per_gpu: int = 1
    dtype: str = "bfloat16"
    quantization: str | None = None
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float | None = None
    cpu_kv_cache_gib: float | None = None
    cpu_threads: int | None = None
    start_timeout: float = 1800.0
    keep_prefixes: bool = False
    fork_template: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    structured: bool = False
    token_logprobs: bool = False
    args: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """One running model. All methods are called on one event loop, the class's own anywhere.

    `takes` are the kinds of prompt that the engine answers (`Prompt.kind`). `computes` is False
    for a dry run: what a model needs of time, memory and money then tells nothing about the run.
    """

    takes: ClassVar[frozenset[str]]
    computes: ClassVar[bool]

    @classmethod
    def check_installed(cls, device: Literal["cpu", "gpu"] | None) -> None:
        """Raise `UserError`, with the command that mends it, when this Python lacks the engine.

        `device` is where the engine would run; None: it is not known. Takes well below a second,
        so it may miss an installation that is broken.
        """

    @classmethod
    def check_args(cls, args: dict[str, Any]) -> None:
        """Raise `SpecError` for pass-through arguments that the engine does not have."""

    @classmethod
    def is_neutral(cls, name: str, value: Any) -> bool:
        """Whether this pass-through argument changes speed or memory but no answer.

        True for arguments that the engine lists, each with the reason, and for no others.
        """
        ...

    @classmethod
    def check_sampling(
        cls,
        params: Mapping[str, Any],
        *,
        job: Mapping[str, Any],
        args: Mapping[str, Any],
        vocab: int,
    ) -> None:
        """Raise `ValueError` for sampling parameters that the engine would refuse.

        The sentence begins with the parameter's name. `params` are the job's, or those of a row on
        top of the job's. The engine is started with the job's parameters, `job`, and the arguments
        `args`; `vocab` is the number of tokens of its model.
        """

    @classmethod
    def check_structure(cls, structure: Mapping[str, Any]) -> list[str]:
        """Notes about a shape of answers, the sampling parameter `structured_outputs`.

        Raises `ValueError` when the engine cannot enforce the shape, with a sentence that begins
        with the field of the spec's `answer`.
        """
        ...

    @classmethod
    def place(
        cls, card: ModelCard, resources: Resources, hardware: Hardware, max_model_len: int
    ) -> Placement:
        """Where one engine goes and how much it takes at once. Raises `PlacementError`."""
        ...

    @classmethod
    def prepare(cls, config: EngineConfig) -> EngineConfig:
        """Fetch what the engine loads to this node, and name it in the configuration.

        May block for as long as a download takes. Raises `ModelError`, `StorageError`.
        """
        ...

    async def start(self) -> None:
        """Load the model. Raises `EngineStartError` with the cause in its message."""

    async def generate(self, request: Request) -> Completion:
        """Answer one request; cancelling the call frees it in the engine.

        Raises `RowRejected`, `RowTransient` or `EngineLost`.
        """
        ...

    def numbers(self) -> dict[str, float]:
        """What the engine tells of itself, by the names in `reporting/metrics.py`; any thread."""
        ...

    async def ping(self) -> None:
        """Return as soon as the engine itself has answered a question, whatever its load.

        An engine that hangs never lets this return. Raises `EngineLost` when it is dead.
        """

    async def kill(self) -> None:
        """End the engine's processes at once; every request in flight then raises `EngineLost`."""

    async def stop(self) -> None:
        """End every process of the engine, dead or alive. Never raises, may be called twice."""


REGISTRY = {
    "vllm": "gemma_batch.engines.vllm:VllmEngine",
    "echo": "gemma_batch.engines.echo:EchoEngine",
}


def engine_class(name: str) -> type[Engine]:
    """The class of an engine by its name in `resources.engine`; imports no engine's libraries."""
    module, _, attribute = REGISTRY[name].partition(":")
    found: type[Engine] = getattr(importlib.import_module(module), attribute)
    return found


def answer_args(engine: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an engine's pass-through arguments that can change an answer, by name."""
    if not args:
        return {}
    is_neutral = engine_class(engine).is_neutral
    return {name: args[name] for name in sorted(args) if not is_neutral(name, args[name])}


def make_engine(config: EngineConfig) -> Engine:
    """An engine that is not started yet."""
    make: Any = engine_class(config.engine)
    engine: Engine = make(config)
    return engine
