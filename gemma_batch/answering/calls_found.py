"""Calls found: what the parsers of calls give back, whatever the format (driver and GPU actor)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

DEEPEST = 32  # lists and objects inside each other in the arguments of a call


class BadCallError(ValueError):
    """A call that cannot be read. The message says why, and quotes the place."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function, as the model wrote it: no schema has seen the arguments."""

    name: str
    arguments: dict[str, Any]

    def arguments_text(self) -> str:
        """The arguments as JSON text. Raises `BadCallError` for values that JSON cannot hold."""
        try:
            text = json.dumps(self.arguments, ensure_ascii=False, allow_nan=False)
            try:
                text.encode()
            except UnicodeEncodeError:  # half of a surrogate pair: only its escape is text
                text = json.dumps(self.arguments, allow_nan=False)
        except (ValueError, RecursionError) as err:
            raise BadCallError(f"the arguments of {self.name!r} are no JSON: {err}") from None
        return text


@dataclass(slots=True)
class Found:
    """The calls in a text, and the spans (start, end) in characters that they take in it."""

    calls: list[Call] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)


def check_name(name: Any) -> str:
    """The name of a function. Raises `BadCallError` for a name that no function has."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 200:
        raise BadCallError(f"{name!r:.80} is no name of a function")
    return name


def finite(value: float) -> float:
    """The number. Raises `BadCallError` for infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadCallError("a number is too large")
    return value
