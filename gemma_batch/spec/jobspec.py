"""JobSpec: the validated YAML (or Python) description of a job.

This is the one place where input from people is validated. It knows names, types and ranges;
it does not look at files, models or hardware (that is the plan's work), so it is cheap to build
anywhere. Unknown keys are refused with the nearest valid one named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gemma_batch.errors import SpecError
from gemma_batch.spec.yaml_text import apply_overrides, parse_yaml, sentences

DEFAULT_MAX_TOKENS = 256
SINGLE_ROUTE = "all"  # the route of a job that names just a model
ROUTE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class Input(_Part):
    """Where the documents are. `path` is a file, folder or glob (or several), local or s3://."""

    path: str | tuple[str, ...]
    format: Literal["auto", "parquet", "jsonl", "csv", "openai"] = "auto"
    id: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple, however it was written."""
        return (self.path,) if isinstance(self.path, str) else self.path


class Prompt(_Part):
    """What is asked: Jinja templates over the row's columns, or a column of conversations."""

    system: str | None = None
    user: str | None = None
    messages: str | None = None
    params: str | None = None
    overlong: Literal["fail", "truncate_start", "truncate_end"] = "fail"

    @model_validator(mode="after")
    def _one_source(self) -> Prompt:
        if self.user is not None and self.messages is not None:
            raise ValueError("`user` and `messages` exclude each other: keep one of them")
        return self


class Sampling(_Part):
    """vLLM's sampling parameters by their own names; `max_tokens` is always explicit here."""

    n: Annotated[int, Field(ge=1, le=128)] = 1
    max_tokens: Positive = DEFAULT_MAX_TOKENS
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    logprobs: Annotated[int, Field(ge=0)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    repetition_detection: dict[str, Any] | None = None
    thinking_token_budget: int | None = None
    extra_args: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Sampling:
        if self.n > 1 and self.temperature == 0:
            raise ValueError(
                f"n={self.n} with temperature 0 would give the same answer {self.n} times: "
                "raise the temperature or set n to 1"
            )
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}")
        return self

    def engine_params(self) -> dict[str, Any]:
        """Only what was set or differs from vLLM's own default (`max_tokens` always)."""
        given = self.model_dump(exclude_defaults=True)
        given["max_tokens"] = self.max_tokens
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}


class Replicas(_Part):
    """Bounds between which the pool of engine actors may grow and shrink."""

    min: Positive
    max: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}")
        return self


class Resources(_Part):
    """Hardware and engine settings; what is left out, the plan chooses.

    `price_per_hour` is that of one GPU, or of one engine where there is none; any currency.
    `sort` says whether the whole input is sorted by prefix first, into copies under the output
    (`auto`: when the plan's sample shows that it saves more time than it takes).
    """

    engine: Literal["vllm", "echo"] = "vllm"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpu: str | None = None
    replicas: Literal["auto"] | Positive | Replicas = "auto"
    tensor_parallel: Positive | None = None
    engines_per_gpu: Annotated[int, Field(ge=1, le=16)] | None = None
    precision: Literal["bf16", "fp32", "fp8"] | None = None
    order: Literal["auto", "input", "prefix", "length"] = "auto"
    sort: Literal["auto", "always", "never"] = "auto"
    max_model_len: Annotated[int, Field(ge=16)] | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.98)] | None = None
    cpu_kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    engine_args: dict[str, Any] = Field(default_factory=dict)


class Stop(_Part):
    """When a run stops itself, with exit code 4, rather than cost money for nothing.

    `failed_share` of the last `last_rows` rows failed by engines (bad rows of the input do not
    count); more than `engine_restarts` per engine within `minutes`; no sign of progress at all
    for `stalled_minutes`.
    """

    failed_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    last_rows: Positive = 1000
    engine_restarts: Annotated[int, Field(ge=0)] = 50
    minutes: Annotated[float, Field(gt=0)] = 60.0
    stalled_minutes: Annotated[float, Field(gt=0)] = 120.0


AlertName = Literal[
    "min_tokens_per_second", "max_failed_share", "max_row_seconds", "max_memory_share"
]


class Alerts(_Part):
    """What somebody should hear of while a run goes on; nothing by default.

    `min_tokens_per_second`: output tokens of all engines together, on average over `for_seconds`
    (longer than a row takes). `max_failed_share`: of the rows of this run, from 0 to 1, whatever
    the cause. `max_row_seconds`: the age of the oldest row in an engine. `max_memory_share`: used
    memory of the fullest node that has an engine, from 0 to 1, for `for_seconds` without a break.
    Those named in `stop` end the run, with exit code 4; what is committed stays.
    """

    min_tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    max_failed_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_row_seconds: Annotated[float, Field(gt=0)] | None = None
    max_memory_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    for_seconds: Annotated[float, Field(ge=0)] = 60.0
    stop: tuple[AlertName, ...] = ()

    @model_validator(mode="after")
    def _stops_have_thresholds(self) -> Alerts:
        for name in self.stop:
            if getattr(self, name) is None:
                raise ValueError(f"stop names {name!r}, which has no threshold: set {name} too")
        return self


class Policy(_Part):
    """What to tolerate and when to stop. Times in seconds, sizes in rows or bytes."""

    max_failed: int | float | str = 0
    row_deadline: Annotated[float, Field(gt=0)] = 1800.0
    max_attempts: Positive = 3
    engine_start_timeout: Annotated[float, Field(gt=0)] = 1800.0
    engine_hang_timeout: Annotated[float, Field(gt=0)] = 300.0
    storage_patience: Annotated[float, Field(ge=0)] = 300.0
    unit_rows: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    unit_seconds: Annotated[float, Field(gt=0)] = 60.0
    unit_bytes: Annotated[int, Field(ge=1024)] = 48 * 2**20
    progress_seconds: Annotated[float, Field(gt=0)] = 10.0
    stop: Stop = Stop()
    alerts: Alerts = Alerts()

    @field_validator("max_failed")
    @classmethod
    def _rows_or_share(cls, value: int | float | str) -> int | float | str:
        _failure_limit(value, 100)
        return value

    def failure_limit(self, rows: int) -> int:
        """The greatest number of failed rows, out of `rows`, that still counts as success."""
        return _failure_limit(self.max_failed, rows)


def _failure_limit(value: int | float | str, rows: int) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if not match or float(match[1]) > 100:
            raise ValueError(f"{value!r} is neither a number of rows nor a share such as '0.5%'")
        return int(rows * float(match[1]) / 100)
    if value < 0:
        raise ValueError(f"{value!r} is negative")
    if isinstance(value, float):
        if value >= 1 and value != int(value):
            raise ValueError(f"{value!r} is neither a whole number of rows nor a share below 1")
        return int(rows * value) if value < 1 else int(value)
    return value


class Route(_Part):
    """Rows that go to one model. `resources` overrides single fields of the job's resources."""

    name: str
    model: str
    revision: str | None = None
    when: str | None = None
    resources: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _slug(cls, value: str) -> str:
        if not ROUTE_NAME.fullmatch(value) or re.fullmatch(r"retry\d*", value):
            raise ValueError(
                f"{value!r} is no route name: use lower-case letters, digits and _, starting "
                "with a letter (it becomes part of file names; 'retry' is taken)"
            )
        return value


class Output(_Part):
    """Where the data set goes; `keep` are input columns copied through."""

    path: str
    keep: tuple[str, ...] = ()

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty: name a local folder or an s3:// prefix")
        return value.rstrip("/") if value.rstrip("/") else value


class JobSpec(_Part):
    """One batch job: input, prompt, model or routes, sampling, output, resources, policy."""

    name: str = "gemma-batch"
    input: Input
    prompt: Prompt = Prompt()
    model: str | None = None
    revision: str | None = None
    routes: tuple[Route, ...] = ()
    sampling: Sampling = Sampling()
    output: Output
    resources: Resources = Resources()
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _model_or_routes(self) -> JobSpec:
        if (self.model is None) == (not self.routes):
            raise ValueError("give either `model` or `routes`, one of them and not both")
        if self.revision is not None and self.routes:
            raise ValueError("`revision` belongs to each route when there are `routes`")
        names = [route.name for route in self.routes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two routes are named {name!r}: names must differ")
        for route in self.routes[:-1]:
            if route.when is None:
                raise ValueError(
                    f"route {route.name!r} has no `when`, so it takes every row and the routes "
                    "after it get none: move it to the end"
                )
        if self.routes and self.routes[-1].when is not None:
            raise ValueError(
                f"the last route {self.routes[-1].name!r} has a `when`, so some rows might match "
                "no route: end with a route without `when`"
            )
        for route in self.routes:
            self.resources_of(route)
        return self

    @property
    def effective_routes(self) -> tuple[Route, ...]:
        """The routes; a job with just `model` has one, `SINGLE_ROUTE`."""
        if self.routes:
            return self.routes
        assert self.model is not None
        return (Route(name=SINGLE_ROUTE, model=self.model, revision=self.revision),)

    def resources_of(self, route: Route) -> Resources:
        """The job's resources with the route's overrides. Raises `SpecError` on a bad override."""
        merged = {**self.resources.model_dump(exclude_unset=True), **route.resources}
        where = f"routes.{route.name}.resources"
        try:
            return Resources.model_validate(merged)
        except pydantic.ValidationError as err:
            raise SpecError(sentences(err, Resources, prefix=where)) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobSpec:
        """Validate plain data. Raises `SpecError` naming each wrong field."""
        try:
            spec = cls.model_validate(dict(data))
            json.dumps(spec.to_dict())  # the manifest keeps it as JSON
        except pydantic.ValidationError as err:
            raise SpecError(sentences(err, cls)) from None
        except (ValueError, TypeError, OverflowError, RecursionError) as err:
            raise SpecError(f"the spec holds a value that JSON cannot: {err}") from None
        return spec

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> JobSpec:
        """Read a YAML file and apply `a.b=c` overrides. Raises `SpecError`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise SpecError(f"cannot read the spec {str(path)!r}: {err}") from None
        return cls.from_dict(apply_overrides(parse_yaml(text, where=str(path)), overrides))

    def to_dict(self) -> dict[str, Any]:
        """Plain data that gives an equal spec back; only what was set."""
        return self.model_dump(mode="json", exclude_unset=True)
