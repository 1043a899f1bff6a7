"""Samples: rows of an output to look at, each with its prompt and its answers (driver, laptop).

`shown_answers` and `shown_failures` make them of one committed part. `picking.py` chooses the rows,
`sample_page.py` makes a page of them, and `cli/show_rows.py` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from gemma_batch.errors import OutputError
from gemma_batch.reporting.row_prompts import NOT_READ, RowPrompt, RowPrompts
from gemma_batch.units.unit import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    """One answer of a row; or one failure, which has a `code`.

    The fields are columns of the results or of the errors. `output` is a list where `sampling.n` is
    above 1; of a failure, it is the refused answer, if there is one. `answer` is the typed answer,
    in a job whose answers have a shape. `more` are the other columns that the answer fills.
    """

    route: str
    model: str | None = None
    output: Any = None
    answer: Any = None
    tool_calls: Any = None
    thinking: Any = None
    finish_reason: Any = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    attempts: int | None = None
    seconds: float | None = None
    more: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """A row with its prompt and its answers.

    `shard` is the URL of the input file, `row_number` the number of the row there, from 0. `prompt`
    is the text as the model saw it; where it is None, `no_prompt` is a sentence that says why, and
    `row` the values of the input row, if they can be read. `marks` are the control tokens in the
    prompt that the job wrote itself. `note` is a sentence about the prompt, or None. `kept` are the
    kept columns. A row has one answer, or several where several models were asked.
    """

    id: str
    shard: str
    row_number: int
    prompt: str | None
    no_prompt: str | None = None
    note: str | None = None
    marks: tuple[str, ...] = ()
    row: dict[str, Any] | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    answers: tuple[ShownAnswer, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The row as plain data, for JSON."""
        data = asdict(self)
        del data["marks"]
        return data


def answered_numbers(unit: Unit, failures: Sequence[Mapping[str, Any]]) -> list[int]:
    """The numbers of the rows that the part of `unit` has answers of, in the part's order.

    `failures` are those in the part's footer. In the part of a retry, some are of rows that this
    pass did not try: their numbers are not among those of the unit.
    """
    failed = {failure["number"] for failure in failures}
    return [number for number in unit.numbers if number not in failed]


def shown_answers(
    prompts: RowPrompts,
    unit: Unit,
    failures: Sequence[Mapping[str, Any]],
    table: pa.Table,
    places: Sequence[int],
) -> list[ShownRow]:
    """The answers in rows of a part.

    `unit` is of the part's own generation, `failures` are those in its footer. `table` are rows of
    the part, which stand at `places` in it (from 0). Raises `OutputError` when the part has another
    number of rows than its footer says.
    """
    numbers = answered_numbers(unit, failures)
    if places and max(places) >= len(numbers):
        raise OutputError(
            f"{unit.path!r} has more rows than its footer says: it is damaged; move it away and "
            "run again"
        )
    mine = [numbers[place] for place in places]
    found = prompts.of(unit, set(mine)) if mine else {}
    shown = []
    for number, values in zip(mine, table.to_pylist(), strict=True):
        id_, kept, answer = _answer(values)
        shown.append(_row(id_, found[number], answer, kept, shortens=prompts.shortens))
    return shown


def shown_failures(
    prompts: RowPrompts, unit: Unit, failures: Sequence[Mapping[str, Any]]
) -> list[ShownRow]:
    """Failures in the footer of a part, which is the newest part of `unit`.

    They may be of rows that the part's generation did not try; `unit` is of generation 0.
    """
    found: dict[int, RowPrompt] = {}
    # A file that killed the processes which read it must not be opened by the person who looks.
    unread = {one["number"]: one["message"] for one in failures if one["code"] in NOT_READ}
    for number, why in unread.items():
        found |= prompts.without(unit, [number], why)
    if others := {one["number"] for one in failures} - unread.keys():
        found |= prompts.of(unit, others)
    shown = []
    for failure in failures:
        prompt = found[failure["number"]]
        values = prompt.values or {}
        kept = {name: values.get(column) for name, column in prompts.kept.items()} if values else {}
        answer = ShownAnswer(
            route=unit.route,
            output=failure.get("output"),
            attempts=failure["attempts"],
            seconds=failure.get("seconds"),
            code=failure["code"],
            message=failure["message"],
        )
        shown.append(_row(failure["id"], prompt, answer, kept))
    return shown


def _row(
    id_: str,
    prompt: RowPrompt,
    answer: ShownAnswer,
    kept: dict[str, Any],
    *,
    shortens: bool = False,
) -> ShownRow:
    note = prompt.note
    seen, whole = answer.prompt_tokens, prompt.tokens
    if shortens and seen and whole and seen < whole:
        note = f"the model got it shortened to {seen:,} of {whole:,} tokens (prompt.overlong)"
    return ShownRow(
        id=id_,
        shard=prompt.shard,
        row_number=prompt.row_number,
        prompt=prompt.text,
        no_prompt=prompt.missing,
        note=note,
        marks=prompt.marks,
        row=prompt.values if prompt.text is None else None,
        kept=kept,
        answers=(answer,),
    )


def _answer(values: dict[str, Any]) -> tuple[str, dict[str, Any], ShownAnswer]:
    """Id, kept columns and answer of a row of the results."""
    names = list(values)
    kept = {name: values[name] for name in names[: names.index("id")]}
    known = {name: values[name] for name in names if name in _COLUMNS and name not in kept}
    more = {name: values[name] for name in names if name not in {*known, *kept, "id"}}
    return values["id"], kept, ShownAnswer(**known, more=more)


_COLUMNS = set(ShownAnswer.__slots__) - {"more", "code", "message"}


def together(rows: Sequence[Sequence[ShownRow]]) -> list[ShownRow]:
    """Rows that several models answered, each with all of its answers.

    `rows` are the rows of each model; those of one place in the input are put together. Prompt and
    place are those of the first model that has the row.
    """
    found: dict[tuple[str, int], ShownRow] = {}
    for row in (row for one in rows for row in one):
        key = (row.shard, row.row_number)
        other = found.setdefault(key, row)
        if other is not row:
            found[key] = replace(other, answers=(*other.answers, *row.answers))
    return list(found.values())
