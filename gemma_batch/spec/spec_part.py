"""SpecPart: the base of every part of a spec. Parts are frozen and refuse unknown keys.

The text below a field is its description: `reference` makes docs/spec.md of it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class _Absent:
    """Stands for an attribute that a class does not have."""

    def __get__(self, part: object, owner: Any = None) -> Any:
        raise AttributeError("this part of the spec has no such field")


class SpecPart(BaseModel):
    """A part of a spec: plain, validated data that cannot be changed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        ignored_types=(_Absent,),
    )

    # Pydantic has an old function of this name, which would be in the way of a field.
    schema = _Absent()
