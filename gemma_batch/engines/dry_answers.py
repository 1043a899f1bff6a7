"""Answers of a dry run that have the shape a job asks for (GPU actor).

The echo engine has no model, but the rest of a dry run checks and commits answers as a real run
does. So its answers need the shape too. The same prompt gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dry_answer(structure: Mapping[str, Any], token_ids: list[int]) -> str:
    """A text of the shape in `structure`, the sampling parameter `structured_outputs`."""
    if labels := structure.get("choice"):
        return str(labels[sum(token_ids) % len(labels)])
    raise NotImplementedError(f"a dry run has no answers of the shape {sorted(structure)}")
