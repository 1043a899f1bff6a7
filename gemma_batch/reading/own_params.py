"""OwnParams: checks the sampling parameters that single rows bring along (Ray CPU task, driver).

A row is checked together with the job, by the rules for the job: what the engine would refuse is a
failure of the row before the engine is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from gemma_batch.engines.base import engine_class
from gemma_batch.spec import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnParams:
    """Checks rows of one route; can be pickled.

    `job` are the job's sampling parameters under the engine's names, `engine` is the name of the
    engine, `args` its arguments in the spec, and `vocab` the number of tokens of the model.
    """

    engine: str
    job: Mapping[str, Any]
    vocab: int
    args: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a row under the engine's names.

        Raises `ValueError` with the name of the parameter that is wrong.
        """
        params = self._renamed(params)
        if unknown := sorted(params.keys() - (Sampling.model_fields.keys() - {"n"})):
            raise ValueError(f"{unknown[0]!r} cannot be set by a row")
        if "logprobs" in params and self.job.get("logprobs") is None:
            raise ValueError(
                "'logprobs' cannot be set by a row in a job without sampling.logprobs, which makes "
                "the column for them"
            )
        job = {name: value for name, value in self.job.items() if name in Sampling.model_fields}
        try:
            together = Sampling.model_validate({**job, **params}).engine_params()
        except pydantic.ValidationError as err:
            first = err.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"])) or "parameters"
            raise ValueError(f"{name}: {first['msg']}") from None
        engine_class(self.engine).check_sampling(
            together, job=self.job, args=self.args, vocab=self.vocab
        )
        return {name: value for name, value in together.items() if name in params}

    def _renamed(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with OpenAI's newer names and its way to ask for log probabilities."""
        params = {
            ("max_tokens" if name == "max_completion_tokens" else name): value
            for name, value in params.items()
        }
        wanted = params.get("logprobs")
        if isinstance(wanted, bool):
            del params["logprobs"]
            most = params.pop("top_logprobs", 0) if wanted else None
            if most is not None:
                params["logprobs"] = most
        # `n` decides the type of the output column, so a row can only say it again.
        if type(params.get("n")) is int and params["n"] == self.job.get("n", 1):
            del params["n"]
        return params
