"""Structure: what an engine is asked for so that answers have a shape (driver, Ray CPU task)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gemma_batch.engines.narrowed import narrowed
from gemma_batch.spec import Answer, patterns

STRUCTURE = "structured_outputs"  # the sampling parameter


def structure_of(answer: Answer) -> dict[str, Any]:
    """The sampling parameter `structured_outputs` for an answer; {} for free text.

    The schema of `answer` is resolved: it names no file and no class.
    """
    if answer.choice is not None:
        return {"choice": list(answer.choice)}
    if answer.regex is not None:
        return {"regex": patterns.written(patterns.parsed(answer.regex))}
    if answer.grammar is not None:
        return {"grammar": answer.grammar}
    return {"json": schema_text(answer.schema)} if isinstance(answer.schema, dict) else {}


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema for the engine, as JSON."""
    return json.dumps(narrowed(schema), ensure_ascii=False, separators=(",", ":"))
