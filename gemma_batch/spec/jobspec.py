"""JobSpec: the validated YAML (or Python) description of a job, put together from its parts.

This is the one place where input from people is validated. It knows names, types and ranges;
it does not look at files, models or hardware (that is the plan's work), so it is cheap to build
anywhere. Unknown keys are refused with the nearest valid one named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import model_validator

from gemma_batch.errors import SpecError
from gemma_batch.spec.answer import Answer
from gemma_batch.spec.input import Input
from gemma_batch.spec.output import Output
from gemma_batch.spec.policy import Policy
from gemma_batch.spec.prompt import Prompt
from gemma_batch.spec.report_options import ReportOptions
from gemma_batch.spec.resources import Resources
from gemma_batch.spec.route import SINGLE_ROUTE, Route
from gemma_batch.spec.sampling import Sampling
from gemma_batch.spec.spec_part import SpecPart, check_plain
from gemma_batch.spec.tools import Tools
from gemma_batch.spec.yaml_file import read_text
from gemma_batch.spec.yaml_text import apply_overrides, parse_yaml, sentences

# Sampling fields by which an answer ends early, goes on after its end, or lacks tokens it needs.
# `logit_bias` does nothing of this: it moves scores, and a token that the shape rules out has none.
AGAINST_A_SHAPE = ("stop", "stop_token_ids", "ignore_eos", "allowed_token_ids", "bad_words")


class JobSpec(SpecPart):
    """One batch job: the input rows, the question, the model, and the place of the answers."""

    name: str = "gemma-batch"
    """The name of the job in logs, metrics and submission ids. It may
    change on a resume."""

    input: Input
    """Where the documents are."""

    prompt: Prompt = Prompt()
    """What the model is asked about each row."""

    answer: Answer = Answer()
    """The shape that answers must have. Default: free text."""

    tools: Tools | None = None
    """The functions that the model may call in its answers. Default: none."""

    thinking: bool = False
    """Let the model think before it answers, where it can (Gemma 4). The thoughts stand in the
    column `thinking`, and never in `output`."""

    model: str | None = None
    """The model: a Gemma by name (`gemma-batch models`), another Gemma on the hub, or a local or
    `s3://` folder that holds one. The weights must be safetensors. Give `model` or `routes`."""

    revision: str | None = None
    """The revision of the model: a commit, tag or branch of the hub. Default: the newest on
    the hub when the run starts. A folder has no revisions."""

    routes: tuple[Route, ...] = ()
    """Several models in one run, instead of `model`."""

    sampling: Sampling = Sampling()
    """How the model chooses its answer."""

    output: Output
    """Where the data set goes."""

    resources: Resources = Resources()
    """Hardware and engine settings."""

    policy: Policy = Policy()
    """Limits of a run: the failures that it tolerates, when it stops itself, its alerts."""

    report: ReportOptions = ReportOptions()
    """What the report's page shows."""

    @model_validator(mode="after")
    def _one_form(self) -> JobSpec:
        if self.tools is not None and self.answer.kind is not None:
            raise ValueError(
                f"`tools` and `answer.{self.answer.kind}` contradict each other: an answer is a "
                "call of a function, or it has this shape. Remove one of them"
            )
        return self

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

    @model_validator(mode="after")
    def _one_use_of_logprobs(self) -> JobSpec:
        if self.answer.confidence and self.sampling.logprobs is not None:
            raise ValueError(
                "`answer.confidence` and `sampling.logprobs` are two requests for log "
                "probabilities, and an engine takes one: keep one of the two"
            )
        return self

    @model_validator(mode="after")
    def _nothing_against_the_shape(self) -> JobSpec:
        if (kind := self.answer.kind) is None:
            return self
        for name in AGAINST_A_SHAPE:
            if getattr(self.sampling, name):
                raise ValueError(
                    f"`sampling.{name}` could end or change an answer where `answer.{kind}` does "
                    "not allow it: leave one of the two out"
                )
        return self

    @model_validator(mode="after")
    def _a_price_for_a_cost(self) -> JobSpec:
        if (limit := self.policy.budget.cost) is None:
            return self
        for route in self.effective_routes:
            if self.resources_of(route).price_per_hour is None:
                of_route = f" for route {route.name!r}" if self.routes else ""
                raise ValueError(
                    f"`policy.budget.cost` is {limit:g}, and nothing says what an hour costs"
                    f"{of_route}: set `resources.price_per_hour`, or use `policy.budget.gpu_hours`"
                )
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
        if "gpu" in route.resources:
            raise SpecError(
                f"{where}.gpu: a plan is for one kind of GPU: set `resources.gpu` for all routes"
            )
        try:
            return Resources.model_validate(merged)
        except pydantic.ValidationError as err:
            raise SpecError(sentences(err, Resources, prefix=where)) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobSpec:
        """Validate plain data. Raises `SpecError` naming each wrong field."""
        try:
            spec = cls.model_validate(dict(data))
        except pydantic.ValidationError as err:
            raise SpecError(sentences(err, cls)) from None
        except (ValueError, TypeError, OverflowError, RecursionError) as err:
            raise SpecError(f"the spec holds a value that JSON cannot: {err}") from None
        check_plain(spec)
        return spec

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> JobSpec:
        """Read a YAML file (local or `s3://`), apply `a.b=c` overrides. Raises `SpecError`."""
        text = read_text(str(path))
        return cls.from_dict(apply_overrides(parse_yaml(text, where=str(path)), overrides))

    def to_dict(self) -> dict[str, Any]:
        """Plain data that gives an equal spec back; only what was set."""
        return self.model_dump(mode="json", exclude_unset=True)
