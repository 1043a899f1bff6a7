"""OwnParams: checks the sampling parameters that single rows bring along (Ray CPU task, driver).

A row is checked together with the job, by the rules for the job: what the engine would refuse is a
failure of the row before the engine is asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from gemma_batch.engines.base import engine_class
from gemma_batch.engines.structure import STRUCTURE
from gemma_batch.prompts.messages import CONTINUE
from gemma_batch.reading.own_shape import own_shape
from gemma_batch.reading.own_tools import OwnTools, own_tools
from gemma_batch.reading.row_fields import renamed, without_neutral, without_nulls
from gemma_batch.reading.structures import check_beside_shape, check_calls, structure_for
from gemma_batch.rows import Own
from gemma_batch.spec import Sampling
from gemma_batch.texts import shortened
from gemma_batch.units.asked import Asked

OWN_FIELDS = Sampling.model_fields.keys() - {"n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnParams:
    """Checks rows of one route; can be pickled.

    `job` are the job's sampling parameters under the engine's names, `engine` is the name of the
    engine, `args` its arguments in the spec, and `vocab` the number of tokens of the model. `asked`
    is what the job asks of the form of its answers. Where answers are read with their control
    tokens, they are, whatever a row says; those that are left over are taken out of the text.
    """

    engine: str
    job: Mapping[str, Any]
    vocab: int
    args: Mapping[str, Any] = field(default_factory=dict)
    asked: Asked = field(default_factory=Asked)

    def __call__(self, params: dict[str, Any]) -> Own:
        """The parameters of a row under the engine's names, and the form that it asks for.

        Raises `ValueError` with the name of the parameter that is wrong.
        """
        shape, params = own_shape(params)
        if shape is not None:
            self._check_place(shape)
        tools, params = own_tools(params, self.asked.tools)
        if tools is not None:
            self._check_tools(tools, shape)
        params = self._translated(params)
        if self.asked.shows_marks and params.get("skip_special_tokens") is True:
            del params["skip_special_tokens"]
        if unknown := sorted(params.keys() - OWN_FIELDS):
            near = difflib.get_close_matches(unknown[0], OWN_FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if unknown[0] == "n":
                hint = f": each row has as many answers as sampling.n says, {self.job.get('n', 1)}"
            raise ValueError(f"{unknown[0]!r} cannot be set by a row{hint}")
        # Those of `answer.confidence` are not the row's to change.
        given = None if self.asked.answer.confidence else self.job.get("logprobs")
        if "logprobs" in params and given is None:
            raise ValueError(
                "'logprobs' cannot be set by a row in a job without sampling.logprobs, which makes "
                f"the column for them: set sampling.logprobs to at least {params['logprobs']!r}"
            )
        job = {name: value for name, value in self.job.items() if name in Sampling.model_fields}
        try:
            together = Sampling.model_validate({**job, **params}).engine_params()
        except pydantic.ValidationError as err:
            first = err.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"])) or "parameters"
            raise ValueError(f"{name}: {first['msg']}") from None
        own = {name: value for name, value in together.items() if name in params}
        structure = None if tools is None else tools.structure
        if structure is not None:
            check_calls(self.engine, structure)
        if shape is not None:
            structure = structure_for(self.engine, shape)
        if structure is not None:
            together[STRUCTURE] = own[STRUCTURE] = structure
        if structure is not None or STRUCTURE in self.job:
            check_beside_shape(together)
        engine_class(self.engine).check_sampling(
            together, job=self.job, args=self.args, vocab=self.vocab
        )
        form = {} if shape is None else {"answer": shape}
        if tools is None:
            return Own(own, form, enforced=structure is not None)
        functions, choice = tools.tools.functions, tools.tools.mode
        return Own(own, {**form, **tools.form}, functions, choice, structure is not None)

    def _check_tools(self, tools: OwnTools, shape: Mapping[str, Any] | None) -> None:
        job, kind, why = self.asked.tools, self.asked.answer.kind, ""
        if kind is not None:
            why = f"the answers of this job have the shape of answer.{kind}, which no call has"
        elif job is None:
            why = "this job has no column for calls: set tools.rows: true"
        elif not job.rows:
            why = "the functions of this job are those of tools.definitions: leave one out"
        elif shape is not None and tools.tools.choice != "none":
            why = (
                f"asks for the shape {shortened(shape)}, which no call has: leave one out, or set "
                "'tool_choice' to 'none'"
            )
        if why:
            raise ValueError(f"the row brings functions in 'tools', and {why}")

    def _check_place(self, shape: Mapping[str, Any]) -> None:
        if (kind := self.asked.answer.kind) is not None:
            raise ValueError(
                f"the row asks for the shape {shortened(shape)}, and the job for that of "
                f"answer.{kind}, which gives the column `answer` its type: leave one of them out"
            )
        if self.asked.tools is not None and self.asked.tools.forced:
            raise ValueError(
                f"the row asks for the shape {shortened(shape)}, and every answer of this job is a "
                "call, by tools.choice: leave one of them out"
            )
        if not self.asked.answer.rows:
            raise ValueError(
                f"the row asks for the shape {shortened(shape)}, and this job has no column for "
                "such answers: set answer.rows: true"
            )

    def _translated(self, given: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a row under the names and in the forms of `sampling`.

        Raises `ValueError` with the name of a parameter that cannot be translated.
        """
        params = renamed(without_neutral(given, thinking=self.asked.thinking))
        continued = params.pop(CONTINUE, False)  # the renderer looks at it
        if not isinstance(continued, bool):
            text = f"{CONTINUE}: {continued!r} is neither true nor false"
            raise ValueError(text)  # noqa: TRY004  (bad data, not bad code)
        # OpenAI has a switch and a number; `sampling` has one number. A row without the switch
        # has no log probabilities beyond those of the job.
        most = params.pop("top_logprobs", 0)
        if params.get("logprobs") is True:
            params["logprobs"] = most
        elif most != 0:
            raise ValueError("'top_logprobs' cannot be set by a row without 'logprobs': true")
        elif params.get("logprobs") is False:
            del params["logprobs"]
        # `n` decides the type of the output column, so a row can only say it again.
        if type(params.get("n")) is int and params["n"] == self.job.get("n", 1):
            del params["n"]
        for name in ("logit_bias", "repetition_detection"):
            if name in params:
                params[name] = without_nulls(_pairs(params[name]))
        return params


def _pairs(value: Any) -> Any:
    """A Parquet map, which is a list of pairs, as an object; another value as it is."""
    try:
        return dict(value) if isinstance(value, list | tuple) else value
    except (TypeError, ValueError):
        return value
