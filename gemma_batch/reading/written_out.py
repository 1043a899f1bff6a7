"""Written out: how large a row's schema is with its references followed (Ray CPU task, driver).

A schema of a few lines can name the same parts again and again, so that there are billions of ways
through it. The prompt, or the check of an answer, would never end. A job's own schema harms the job
alone; one that comes with a row must harm this row alone.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MOST = 5000  # objects in a schema with its references followed


def check_written_out(schema: dict[str, Any]) -> None:
    """Raise `ValueError` when the schema holds more than `MOST` objects.

    A reference that leads back to a place on the way to itself is not followed again.
    """
    waiting: list[tuple[Any, frozenset[str]]] = [(schema, frozenset())]
    count = 0
    while waiting:
        one, inside = waiting.pop()
        if isinstance(one, list):
            waiting += [(inner, inside) for inner in one]
        if not isinstance(one, dict):
            continue
        count += 1
        if count > MOST:
            raise ValueError(
                f"it holds more than {MOST:,} objects when its references are followed: name "
                "fewer parts several times"
            )
        waiting += [(inner, inside) for name, inner in one.items() if name not in _NOT_ENTERED]
        reference = one.get("$ref")
        if isinstance(reference, str) and reference not in inside:
            waiting.append((_target(schema, reference), inside | {reference}))


_NOT_ENTERED = ("$defs", "definitions")  # what nothing refers to is not followed


def _target(schema: dict[str, Any], reference: str) -> Any:
    target: Any = schema
    for part in filter(None, reference.removeprefix("#").split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        else:
            target = target.get(name) if isinstance(target, dict) else None
    return target


def check_patterns(schema: Any) -> None:
    """Raise `ValueError` for a pattern of which nobody knows how long it takes (see RE2)."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        if not isinstance(one, dict):
            continue
        if one.get("patternProperties"):
            raise ValueError("it has `patternProperties`: name the properties")
        pattern = one.get("pattern")
        if isinstance(pattern, str):
            try:
                pc.match_substring_regex(pa.array([""]), pattern=pattern)
            except pa.ArrowInvalid:
                raise ValueError(
                    f"it has the pattern {pattern[:100]!r}, which cannot be checked in a time "
                    "that is known before"
                ) from None
        waiting += one.values()
