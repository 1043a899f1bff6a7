"""The smallest answer of a shape, and what a plan says of it (driver, laptop)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_batch.engines.dry_json import Instances
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.spec import JobSpec
from gemma_batch.spec.json_schema import shown, subschemas
from gemma_batch.spec.patterns import shortest
from gemma_batch.storage.models import ModelFiles

BOUNDS = ("minLength", "maxLength")


def smallest_answers(structure: Mapping[str, Any]) -> Sequence[str]:
    """Small texts of a shape, one of which is about the smallest; none where nobody knows one.

    `structure` is the sampling parameter `structured_outputs`.
    """
    if (text := structure.get("json")) is not None:
        value = Instances.of(text).smallest()
        return [json.dumps(value, ensure_ascii=False, separators=(",", ":"))]
    if (pattern := structure.get("regex")) is not None:
        return [shortest(pattern)]
    return list(structure.get("choice", ()))


def shape_notes(spec: JobSpec, structure: Mapping[str, Any], files: ModelFiles | None) -> list[str]:
    """Sentences about a shape that will come out otherwise than people may think."""
    notes = []
    if (tokens := fewest_tokens(structure, files)) is not None:
        most = spec.sampling.max_tokens
        field = f"answer.{spec.answer.kind}" if spec.tools is None else "tools.choice"
        if tokens > most:
            notes.append(
                f"the smallest answer that `{field}` allows has about {tokens:,} "
                f"tokens, and sampling.max_tokens is {most:,}: every row will fail as "
                "`invalid_answer`"
            )
    schema = spec.answer.schema
    for place, one in subschemas(schema) if isinstance(schema, dict) else ():
        if isinstance(one, dict) and any(name in one for name in BOUNDS):
            notes.append(
                f"{shown(place)} bounds the length of a text: the engine then writes none of the "
                "characters that JSON writes with a backslash, such as a quotation mark or a line "
                "break"
            )
            break
    return notes


def fewest_tokens(structure: Mapping[str, Any], files: ModelFiles | None) -> int | None:
    """The tokens of about the smallest answer of a shape; None where it is not known here."""
    if files is None or not (texts := smallest_answers(structure)):
        return None
    encode = Tokenizer.from_folder(files.path).encode
    ids = encode("")  # the marks that every text gets
    return min(len(encode(text)) for text in texts) - len(ids)
