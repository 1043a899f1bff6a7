"""The `resources` part of a spec: hardware and engine settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gemma_batch.spec.spec_part import Positive, SpecPart


class Replicas(SpecPart):
    """Bounds between which the number of engines may grow and shrink."""

    min: Positive
    """The run begins with this many engines and never has fewer."""

    max: Positive
    """The run never has more engines than this. At least `min`."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}")
        return self


def _on_or_off(value: Any) -> Any:
    # YAML reads a bare `on` or `off` as a boolean.
    return ("on" if value else "off") if isinstance(value, bool) else value


class Resources(SpecPart):
    """Hardware and engine settings. The plan chooses every value that is left out.

    A route may override single fields in its own `resources`.
    """

    engine: Literal["vllm", "echo"] = "vllm"
    """The program that answers. `vllm` runs the model. `echo` answers with the end of the prompt
    and loads no weights: a dry run of everything but the model."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where engines run. `auto`: on GPUs if the cluster has any when the run starts, else on CPUs,
    and the run says so. `gpu`: the run waits for a GPU where an autoscaler may add one
    (`policy.gpu_wait`), and is refused where there is none."""

    gpu: str | None = None
    """The GPU that `gemma-batch plan` plans for, such as `H100-80`, or `cpu` for the CPU of the
    machine that plans; the same as its option `--gpu`. A run goes by the GPUs of its cluster."""

    replicas: Literal["auto"] | Positive | Replicas = "auto"
    """The number of engines. `auto`: as many as the GPUs of the cluster have room for at the
    start, one on a CPU. A number: exactly this many. `{min, max}`: the run starts `min` engines
    and adds more, up to `max`, while units wait and the cluster has room; the cluster's autoscaler
    is asked for nodes for them. Engines without work end."""

    tensor_parallel: Positive | None = None
    """GPUs (on a CPU: worker processes) that one engine spreads the model over. Must divide the
    model's attention heads. Default: the plan takes the number of GPUs, at most those of one node,
    that gives the most throughput per GPU by its arithmetic; 1 on a CPU."""

    engines_per_gpu: Annotated[int, Field(ge=1, le=16)] | None = None
    """Engines that share one GPU. Default: 4 for models of up to 0.5 billion parameters and 2 up
    to 1.5 billion, if they fit; else 1. It is a rule of thumb."""

    precision: Literal["bf16", "fp32", "fp8"] | None = None
    """Numbers that the weights are kept in, and that the model computes with. `fp8` halves the
    memory of the weights, and the rest is `bf16`; answers may differ. On a CPU `fp8` is refused. A
    quantized checkpoint keeps its weights as they are. The `echo` engine has no weights and does
    not look at this field. Default: `bf16`, as Gemma was trained; a test model on a CPU takes
    `fp32`."""

    order: Literal["auto", "input", "prefix", "length"] = "auto"
    """Order in which waiting rows go to an engine. `prefix`: rows that begin alike go together, so
    that the engine computes their common beginning once. `length`: rows that are expected to take
    long go first. `input`: as they come. `auto`: `prefix` where that saves at least 5% of the
    prompt's tokens, else `length`."""

    sort: Literal["auto", "always", "never"] = "auto"
    """Whether the whole input is sorted by prompt before the engines start, into copies below the
    output. `auto`: if the plan's sample shows that sorting saves more time than it takes."""

    max_model_len: Annotated[int, Field(ge=16)] | None = None
    """The most tokens of a prompt and its answer together. Default: the model's context, but at
    most 8,192: memory is reserved for this length, and few documents need more."""

    max_num_seqs: Positive | None = None
    """Rows that one engine answers at the same time. Default: as many as fit the memory for the
    KV cache, at most 512 (256 for models from 8 billion parameters)."""

    max_num_batched_tokens: Positive | None = None
    """Tokens that one engine computes in one step. Default: 16,384 on GPUs of the Hopper
    generation and newer, 8,192 on older ones, 4,096 on a CPU."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.98)] | None = None
    """Share of a GPU's memory that the engines on it use together, from 0 to 1. Default: 0.9."""

    cpu_kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of the KV cache of one worker on a CPU, in GiB. Default: from the free
    memory, by the plan."""

    fork_template: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = "auto"
    """Whether the processes of a vLLM engine are forked from one that has imported vLLM already,
    which saves seconds of each start. `off`: each is started anew. `on` and `off` may be written as
    `true` and `false`. `auto`: `on` on a CPU; `off` on a GPU, where no run with it is on record."""

    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of one GPU for an hour (of one engine, where there is no GPU), in any currency. With
    it, report, status, page and metrics tell the cost. Default: no cost is told."""

    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments that are handed on to the engine as they are. The names are checked when the job
    is planned. A field of the spec cannot be set here a second time. Arguments that name Python
    code, such as `logits_processors` or `worker_cls`, make the engine import it. So a spec can run
    code on the cluster: run only specs of people who may do that. Of vLLM's load formats, only
    those are taken that never run code out of a model's folder."""
