"""Token ids in sampling parameters: whether the model has them (driver, Ray CPU task)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FIELDS = ("stop_token_ids", "logit_bias", "allowed_token_ids")
SHOWN = 5  # ids that a sentence names


def check_token_ids(params: Mapping[str, Any], vocab: int) -> None:
    """Raise `ValueError` when a parameter names a token that a vocabulary of this size lacks."""
    for name in FIELDS:
        ids: Iterable[int] = params.get(name) or ()
        if foreign := [token for token in ids if not 0 <= token < vocab]:
            more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
            raise ValueError(
                f"{name}: the model has no token {', '.join(map(str, foreign[:SHOWN]))}{more}: "
                f"its vocabulary has {vocab:,} tokens, from 0 to {vocab - 1:,}"
            )
