"""What the shape of answers costs, and what comes out of it (driver, laptop).

A shape costs tokens, of which the smallest answer needs a number that can be counted, and the time
in which an engine compiles it, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_batch.answering.shapes import shape_of
from gemma_batch.engines import grammars
from gemma_batch.planning.asking import all_sampling, asked_of
from gemma_batch.planning.plan import Plan
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.planning.smallest import fewest_tokens
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.spec import JobSpec
from gemma_batch.storage.models import ModelFiles
from gemma_batch.units.asked import Asked


def shape_facts(plan: Plan, prompt: str | None) -> dict[str, Any] | None:
    """Facts about the shape of a job's answers, as plain data; None for free text.

    `columns` has the type of each column that the shape fills. Per route, `smallest_tokens` counts
    the smallest answer, and `compile_seconds` is the time in which an engine compiles the shape;
    both are None where it is not known here. `prompt` is the first prompt, for a hint.
    """
    spec = plan.spec
    asked = asked_of(spec)
    if not asked.shaped:
        return None
    shape = shape_of(spec.sampling.engine_params(), asked)
    usual = {name for name, _ in shape_of(spec.sampling.engine_params(), Asked()).fields()}
    return {
        "kind": spec.answer.kind or ("tools" if spec.tools else "thinking"),
        "columns": {
            name: str(kind)
            for name, kind in (*shape.fields(), *shape.details())
            if name not in usual
        },
        "routes": {route.route.name: _route_facts(spec, route) for route in plan.routes},
        "hint": _hint(spec.answer.schema, prompt),
    }


def _route_facts(spec: JobSpec, route: RoutePlan) -> dict[str, Any]:
    structure = all_sampling(spec, asked_of(spec, route.card)).get("structured_outputs", {})
    return {
        "smallest_tokens": fewest_tokens(structure, route.files),
        "compile_seconds": _seconds(structure, route.files),
    }


def _seconds(structure: Mapping[str, Any], files: ModelFiles | None) -> float | None:
    if files is None or not grammars.installed():
        return None
    for kind in ("json", "regex", "grammar"):
        if (text := structure.get(kind)) is not None:
            words, ends = Tokenizer.from_folder(files.path).vocabulary()
            return grammars.seconds_to_compile(kind, text, words, ends)
    return None


def _hint(schema: Any, prompt: str | None) -> str | None:
    """A sentence when a prompt says nothing of the properties that the model has to fill."""
    names = list(schema.get("properties", ())) if isinstance(schema, Mapping) else []
    if not names or prompt is None or any(name in prompt for name in names):
        return None
    listed = ", ".join(repr(name) for name in names[:4]) + (" ..." if len(names) > 4 else "")
    return (
        f"the model does not see the schema, and the first prompt names none of its properties "
        f"({listed}): say in the prompt what each of them means"
    )
