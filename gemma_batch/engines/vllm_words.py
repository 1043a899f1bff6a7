"""Small translations of what vLLM says, without importing vLLM (GPU actor)."""

from __future__ import annotations

from typing import Any


def refusals(exceptions: Any) -> tuple[type[Exception], ...]:
    """The errors of vLLM about what it was given."""
    # Of these two errors, older versions of vLLM have only the second.
    named = ("VLLMClientError", "VLLMValidationError")
    classes = [getattr(exceptions, name, None) for name in named]
    return (ValueError, TypeError, *(c for c in classes if c is not None))
