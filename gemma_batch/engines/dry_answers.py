"""Answers of a dry run that have the shape a job asks for (driver, GPU actor).

The echo engine has no model, but the rest of a dry run checks and commits answers as a real run
does. So its answers need the shape too. The same prompt gives the same answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from random import Random
from typing import Any

from gemma_batch.engines import grammars
from gemma_batch.engines.dry_json import Instances
from gemma_batch.engines.enforced import check_rules
from gemma_batch.spec import patterns


def dry_answer(structure: Mapping[str, Any], token_ids: list[int]) -> str:
    """A text of the shape in `structure`, the sampling parameter `structured_outputs`."""
    if labels := structure.get("choice"):
        return str(labels[sum(token_ids) % len(labels)])
    random = Random(hashlib.sha256(repr(token_ids).encode()).digest())
    if (text := structure.get("json")) is not None:
        return json.dumps(Instances.of(text).make(random), ensure_ascii=False)
    if (pattern := structure.get("regex")) is not None:
        return patterns.example(patterns.parsed(pattern), random)
    if (grammar := structure.get("grammar")) is not None:
        return grammars.example(grammar, random)
    raise NotImplementedError(f"a dry run has no answers of the shape {sorted(structure)}")


def check_dry(structure: Mapping[str, Any]) -> list[str]:
    """Raise `ValueError` for a shape that no engine can enforce, or of which there are no answers.

    The sentence begins with the field of the spec's `answer`.
    """
    check_rules(structure)
    if (grammar := structure.get("grammar")) is None:
        return []
    if not grammars.installed():
        raise ValueError(
            "grammar: a dry run makes its answers with xgrammar (a part of vLLM), which is not "
            "installed here: install vLLM, or try the spec without the grammar"
        )
    if (fault := grammars.fault("grammar", grammar)) is not None:
        raise ValueError(f"grammar: xgrammar, which enforces it, refuses it: {fault}")
    return []
