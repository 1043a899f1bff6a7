"""Structures: what an engine is asked for so that an answer has the shape that a row asks for (Ray
CPU task, driver).

Rows often bring the same shape, so each one is looked at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import pydantic

from gemma_batch.engines.base import engine_class
from gemma_batch.engines.structure import STRUCTURE, structure_of
from gemma_batch.reading.written_out import check_written_out
from gemma_batch.spec import Answer
from gemma_batch.spec.jobspec import AGAINST_A_SHAPE

SHAPES_KEPT = 256  # that were looked at last


def structure_for(engine: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's sampling parameter `structured_outputs` for a shape: one field of `Answer`.

    Raises `ValueError`, a sentence, for a shape that no job could ask for, or that the engine
    cannot enforce.
    """
    structure, fault = _looked_at(engine, json.dumps(shape))
    if structure is None:
        raise ValueError(fault)
    return structure


def check_calls(engine: str, structure: Mapping[str, Any]) -> None:
    """Raise `ValueError` when the engine cannot enforce these calls of a row's functions."""
    if fault := _fault(engine, json.dumps(structure)):
        raise ValueError(f"'tools': calls of these functions cannot be enforced: {fault}")


@functools.lru_cache(maxsize=SHAPES_KEPT)
def _fault(engine: str, structure: str) -> str:
    try:
        engine_class(engine).check_structure(json.loads(structure))
    except ValueError as err:
        return str(err)
    return ""


@functools.lru_cache(maxsize=SHAPES_KEPT)
def _looked_at(engine: str, shape: str) -> tuple[dict[str, Any] | None, str]:
    try:
        answer = Answer.model_validate(json.loads(shape))
        if isinstance(answer.schema, dict):
            check_written_out(answer.schema)
        structure = structure_of(answer)
        engine_class(engine).check_structure(structure)
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        return None, f"{name}: {first['msg'].removeprefix('Value error, ')}"
    except ValueError as err:
        return None, str(err)
    return structure, ""


def check_beside_shape(params: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a sampling parameter that may break a shape (`AGAINST_A_SHAPE`)."""
    for name in AGAINST_A_SHAPE:
        if params.get(name):
            raise ValueError(
                f"{name!r} could end or change an answer where its shape does not allow it: leave "
                f"one of the two out ({STRUCTURE} and {name})"
            )
