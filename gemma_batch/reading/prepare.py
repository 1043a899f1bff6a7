"""Read and render one unit: the CPU half of a row's way, without Ray.

Everything that can be wrong with a row before an engine sees it becomes that row's failure here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pydantic

from gemma_batch.errors import FailureCode
from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reading.source import given_up, row_id, unit_rows
from gemma_batch.rows import Failure, Request, Row
from gemma_batch.spec import Sampling
from gemma_batch.storage.keep import check_keep, keep_table
from gemma_batch.storage.models import model_files
from gemma_batch.units.payload import Prepared
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shard, Unit


class Preparer:
    """Prepares units of one route; made once per process, since tokenizers are slow to load."""

    def __init__(self, job: RouteJob) -> None:
        self._job = job
        self._renderer = make_renderer(job)

    def prepare(self, shard: Shard, unit: Unit) -> Prepared:
        """A request or a failure for each of the unit's rows."""
        return self._prepared(shard, unit, unit_rows(shard, unit, self._job.columns))

    def give_up(self, shard: Shard, unit: Unit) -> Prepared:
        """Every row of the unit failed: its shard is not even looked at."""
        return self._prepared(shard, unit, given_up(shard, unit))

    def _prepared(self, shard: Shard, unit: Unit, read: list[Row]) -> Prepared:
        job = self._job
        rows = [self._check_keep(row) for row in read]
        requests: list[Request] = []
        failures: dict[int, Failure] = {}
        for row, answer in zip(rows, self._renderer.render_rows(rows), strict=True):
            if isinstance(answer, Failure):
                failures[row.number] = answer
            else:
                requests.append(answer)
        return Prepared(
            shard=shard,
            unit=unit,
            numbers=[row.number for row in rows],
            ids=[row_id(shard.number, row, job.id_column) for row in rows],
            keep=keep_table(rows, job.keep_schema),
            requests=requests,
            failures=failures,
        )

    def _check_keep(self, row: Row) -> Row:
        if row.values is None:
            return row
        try:
            check_keep(row.values, self._job.keep_schema)
        except ValueError as err:
            failure = Failure(FailureCode.BAD_VALUE.value, str(err))
            return replace(row, values=None, failure=failure)
        return row


def make_renderer(job: RouteJob) -> Renderer:
    """The route's renderer, with the model's own tokenizer and chat template."""
    prompt = job.prompt
    return Renderer(
        system=prompt.system,
        user=prompt.user,
        messages=prompt.messages,
        params=prompt.params,
        overlong=prompt.overlong,
        tokenizer=Tokenizer.from_folder(model_files(job.model, job.revision).path),
        max_model_len=job.max_model_len,
        max_tokens=int(job.sampling["max_tokens"]),
        allowed_params=check_params,
    )


def check_params(params: dict[str, Any]) -> dict[str, Any]:
    """A row's own sampling parameters, validated. Raises ValueError naming the wrong one."""
    known = Sampling.model_fields.keys()
    # `n` decides the output's type and OpenAI's newer name means max_tokens.
    params = {("max_tokens" if k == "max_completion_tokens" else k): v for k, v in params.items()}
    if unknown := sorted(params.keys() - known | ({"n"} & params.keys())):
        raise ValueError(f"{unknown[0]!r} cannot be set by a row")
    try:
        checked = Sampling.model_validate(params)
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "parameters"
        raise ValueError(f"{name}: {first['msg']}") from None
    return {k: v for k, v in checked.engine_params().items() if k in params}
