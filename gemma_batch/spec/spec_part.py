"""SpecPart: the base of every part of a spec. Parts are frozen and refuse unknown keys.

The text below a field is its description: `reference` makes docs/spec.md of it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class SpecPart(BaseModel):
    """A part of a spec: plain, validated data that cannot be changed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
