"""Values: which reader takes the value out of an answer, by its shape (driver and GPU actor)."""

from __future__ import annotations

from gemma_batch.answering.answers import Reader
from gemma_batch.answering.json_answers import JsonAnswer
from gemma_batch.answering.labels import Choice
from gemma_batch.answering.text_shapes import Grammar, Regex
from gemma_batch.spec import Answer


def reader_of(answer: Answer, *, as_json: bool = False) -> Reader | None:
    """What reads an answer of this shape; None for free text.

    With `as_json`, the column of a schema holds JSON text, whatever the schema.
    """
    if answer.choice is not None:
        return Choice(answer.choice)
    if answer.regex is not None:
        return Regex(answer.regex)
    if answer.grammar is not None:
        return Grammar(answer.grammar)
    if isinstance(answer.schema, dict):
        return JsonAnswer(answer.schema, flatten=answer.flatten, as_json=as_json)
    return None
