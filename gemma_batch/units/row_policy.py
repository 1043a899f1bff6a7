"""Row policy: the limits of one row and one engine, and the orders of waiting rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPolicy:
    """Limits of one row and one engine. Times in seconds."""

    max_attempts: int = 3
    deadline: float = 1800.0
    hang: float = 300.0
    backoff: float = 0.5


Order = Literal["auto", "input", "prefix", "length"]
