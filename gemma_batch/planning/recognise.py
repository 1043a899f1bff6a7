"""Recognise: tells from the first rows what an input is, where the spec does not say (laptop).

The advice is part of an error: a job never runs on a guess. `init` writes a spec by the same look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gemma_batch.prompts.messages import ROLE_FIELDS, read_conversation
from gemma_batch.prompts.template import RowProblem
from gemma_batch.rows import Row
from gemma_batch.storage.readers.openai import other_endpoint
from gemma_batch.units.unit import Shard

LOOKED_ROWS, LOOKED_SHARDS = 8, 16
USUAL_NAMES = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
# Batches of other services: the column that holds an object, a field of it, and the advice.
OTHER_BATCHES = (
    ("params", "messages", "Anthropic's batches: rename 'params' to 'body' in each line, and put "
     "'system' into the messages"),
    ("request", "contents", "Gemini's batches: prompt: {messages: ...} reads a column that holds "
     "the list which stands under request.contents"),
    ("modelInput", "messages", "Bedrock's batches: prompt: {messages: ...} reads a column that "
     "holds the list which stands under modelInput.messages"),
)  # fmt: skip


def first_rows(shards: Sequence[Shard]) -> list[Row]:
    """The first rows of the first shard that has rows, with all columns; unreadable ones too.

    Raises `InputError` when a shard is corrupt.
    """
    for shard in shards[:LOOKED_SHARDS]:
        reader = shard.reader
        span = reader.head(shard.file, LOOKED_ROWS)
        if rows := list(reader.read(shard.file, span, None)):
            return rows
    return []


def why_no_columns(shards: Sequence[Shard]) -> str:
    """Why an input without a single column has none."""
    rows = first_rows(shards)
    if not rows:
        return "the input has no rows"
    failure = rows[0].failure
    if failure is None:
        return f"the rows of {shards[0].url!r} have no columns"
    return f"the input has no row that can be read. The first: {failure.message}"


def conversation_column(rows: Sequence[Row]) -> str | None:
    """The column whose values are conversations: the one with the most usual name."""
    found = [
        name
        for name in dict.fromkeys(name for row in rows for name in row.values or ())
        if any(_is_conversation(value) for value in _values(rows, name))
    ]
    usual = [name for name in USUAL_NAMES if name in found]
    return next(iter(usual or found), None)


def ends_answered(rows: Sequence[Row], column: str) -> bool:
    """Whether a conversation in `column` ends with an answer, as those for training do."""
    for value in _values(rows, column):
        try:
            turns = read_conversation(value, last_answer="continue")
        except RowProblem:
            continue
        if turns[-1]["role"] == "assistant":
            return True
    return False


def advice(rows: Sequence[Row]) -> str:
    """A sentence about how to read these rows, "" when they are of no known kind."""
    columns = dict.fromkeys(name for row in rows for name in row.values or ())
    if {"custom_id", "body"} <= columns.keys():
        url = next(_values(rows, "url"), None)
        why = other_endpoint(url) or "has no 'messages' in its 'body'"
        return f"The input holds lines of an OpenAI batch file, and the first {why}"
    if (column := conversation_column(rows)) is not None:
        shown = column if column.isidentifier() else json.dumps(column)
        text = f"The column {column!r} holds conversations: prompt: {{messages: {shown}"
        if ends_answered(rows, column):
            return f"{text}, last_answer: drop}} leaves out the answer at their end, which is there"
        return f"{text}}}"
    for name, inner, kind in OTHER_BATCHES:
        if any(isinstance(one, Mapping) and inner in one for one in _values(rows, name)):
            return f"The input looks like that of {kind}"
    if "instruction" in columns:
        more = "\\n\\n{{ input or '' }}" if "input" in columns else ""
        return f'The input looks like Alpaca\'s: prompt: {{user: "{{{{ instruction }}}}{more}"}}'
    if "prompt" in columns:
        return 'The input has a column of prompts: prompt: {user: "{{ prompt }}"}'
    return ""


def _values(rows: Sequence[Row], name: str) -> Iterator[Any]:
    return (value for row in rows if (value := (row.values or {}).get(name)) is not None)


def _is_conversation(value: Any) -> bool:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict) and any(isinstance(one.get(field), str) for field in ROLE_FIELDS)
            for one in value
        )
    )
