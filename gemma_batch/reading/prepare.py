"""Prepares one unit: reads its rows and renders them to requests (Ray CPU task).

Everything that can be wrong with a row before an engine sees the row becomes a failure of that row
here. This module does not know Ray. The driver uses `make_renderer` to sort prompts, and
`tokenizer_files` to send the files of a tokenizer along with a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from gemma_batch.errors import FailureCode, ModelError
from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.tokens import TextTokenizer, Tokenizer, TokenizerFiles, read_files
from gemma_batch.reading.careful import careful_rows
from gemma_batch.reading.known_rows import known_answers
from gemma_batch.reading.own_params import OwnParams
from gemma_batch.reading.source import row_id, unit_rows
from gemma_batch.rows import Failure, Request, Row
from gemma_batch.spec import Prompt
from gemma_batch.storage.keep import check_keep, keep_table
from gemma_batch.storage.models import ModelFiles, model_files, small_digest
from gemma_batch.units.asked import Asked
from gemma_batch.units.known import Known
from gemma_batch.units.payload import Prepared
from gemma_batch.units.raw_rows import pack, raw_rows
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.unit import Shards, Unit


class Preparer:
    """Prepares units of one route; one per process is enough, as tokenizers are slow to load.

    `files` come from the driver, which read them when it planned. Without them, the model's files
    are looked for from here.
    """

    def __init__(self, job: RouteJob, files: TokenizerFiles | None = None) -> None:
        self.job = job
        self._renderer = make_renderer(job, files)

    def prepare(self, shards: Shards, unit: Unit) -> Prepared:
        """Read the unit; every row gets a request or a failure, unless its answer is known.

        `shards` are by number, and have the unit's. Raises `StorageError` when storage does not
        answer.
        """
        return self._prepared(shards, unit, unit_rows(shards, unit, self.job.columns))

    def give_up(self, shards: Shards, unit: Unit) -> Prepared:
        """Fail the rows that kill the processes which read them (see `careful.py`).

        Raises `StorageError` when storage does not answer.
        """
        return self._prepared(shards, unit, careful_rows(shards, unit, self.job.columns))

    def _prepared(self, shards: Shards, unit: Unit, read: list[Row]) -> Prepared:
        job = self.job
        requests: list[Request] = []
        failures: dict[int, Failure] = {}
        known = self._known(unit, read)
        mine = frozenset(known.numbers if known else ())
        open_rows = [row for row in read if row.number not in mine]
        answers = rendered(open_rows, self._renderer, job.keep_schema)
        for row, answer in zip(open_rows, answers, strict=True):
            if isinstance(answer, Failure):
                failures[row.number] = answer
            else:
                requests.append(answer)
        return Prepared(
            unit=unit,
            numbers=[row.number for row in read],
            ids=[row_id(unit.shard, row, job.id_column) for row in read],
            keep=keep_table(read, job.keep_schema),
            raw=pack(raw_rows(read, shards[unit.shard].url)),
            requests=requests,
            failures=failures,
            known=known,
        )

    def _known(self, unit: Unit, read: Sequence[Row]) -> Known | None:
        """The known answers of rows that can be read and whose kept values fit."""
        job = self.job
        if not job.known:
            return None
        return known_answers(job.output, job.known).of(
            read,
            unit.route,
            unit.shard,
            fits=lambda row: _check_keep(row, job.keep_schema).values is not None,
        )


def rendered(
    rows: Sequence[Row], renderer: Renderer, keep_schema: pa.Schema
) -> list[Request | Failure]:
    """A request or a failure for each row, in order.

    The plan judges its sample by this function too, so that it foresees the failures of a run.
    """
    return renderer.render_rows([_check_keep(row, keep_schema) for row in rows])


def _check_keep(row: Row, keep_schema: pa.Schema) -> Row:
    if row.values is None or row.failure is not None:
        return row
    try:
        check_keep(row.values, keep_schema)
    except ValueError as err:
        failure = Failure(FailureCode.BAD_VALUE.value, str(err))
        return replace(row, values=None, failure=failure)
    return row


def tokenizer_files(job: RouteJob) -> TokenizerFiles:
    """The files of the route's tokenizer, from the machine that planned the job.

    Raises `ModelError` when they were changed since.
    """
    planned = _planned(job)
    files = read_files(planned.path)
    if small_digest(planned.path, planned.revision) != planned.digest:
        raise ModelError(
            f"the files of the model {job.model!r} were changed after the job was planned: "
            "start again"
        )
    return files


def make_renderer(job: RouteJob, files: TokenizerFiles | None = None) -> Renderer:
    """The route's renderer, with the tokenizer and the chat template of the route's model.

    `files` as for `Preparer`. Raises `ModelError` when the model's files cannot be read.
    """
    made = Tokenizer.from_files(files) if files else Tokenizer.from_folder(_planned(job).path)
    return renderer_of(
        job.prompt,
        made,
        max_model_len=job.max_model_len,
        own_params=OwnParams(
            engine=job.engine.engine,
            job=job.sampling,
            args=job.engine.args,
            vocab=job.vocab,
            asked=job.asked,
        ),
        asked=job.asked,
    )


def _planned(job: RouteJob) -> ModelFiles:
    return job.files or model_files(job.model)


def renderer_of(
    prompt: Prompt,
    tokenizer: TextTokenizer,
    *,
    max_model_len: int,
    own_params: OwnParams,
    asked: Asked | None = None,
) -> Renderer:
    """The renderer of a spec's prompt. Planning uses it too, so a plan sees the rows as a run does.

    `max_model_len` is the length in tokens that prompt and answer share. `own_params` checks the
    rows' own sampling parameters, and knows those of the job. `asked` is what the job asks of the
    form of its answers.
    """
    asked = asked or Asked()
    tools = asked.tools
    return Renderer(
        system=prompt.system,
        user=prompt.user,
        messages=prompt.messages,
        params=prompt.params,
        overlong=prompt.overlong,
        tokenizer=tokenizer,
        max_model_len=max_model_len,
        max_tokens=int(own_params.job["max_tokens"]),
        allowed_params=own_params,
        last_answer=prompt.last_answer,
        tools=tools.functions if tools else (),
        tool_choice="required"
        if tools and tools.forced
        else str(tools.choice)
        if tools
        else "auto",
        thinking=asked.thinking,
        opened=asked.opens_thought,
    )
