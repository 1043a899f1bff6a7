"""SpecPart: the base of every part of a spec. Parts are frozen and refuse unknown keys.

The text below a field is its description: `reference` makes docs/spec.md of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from gemma_batch.errors import SpecError
from gemma_batch.spec.yaml_text import sentences

Positive = Annotated[int, Field(gt=0)]


class _Absent:
    """Stands for an attribute that a class does not have."""

    def __get__(self, part: object, owner: Any = None) -> Any:
        raise AttributeError("this part of the spec has no such field")


class _Told(type(BaseModel)):  # type: ignore[misc]
    """The class of the classes of parts: a call of such a class is a person's, in Python.

    A call raises `SpecError`, with the sentences that a YAML file gets. Pydantic makes the parts
    inside of a spec without a call, so it still knows where in the spec a wrong field is.
    """

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        if args:
            raise SpecError(
                f"{cls.__name__} takes its fields by name, such as {cls.__name__}"
                f"({next(iter(cls.model_fields))}=...)"
            )
        try:
            part = super().__call__(**fields)
        except pydantic.ValidationError as err:
            raise SpecError(sentences(err, cls)) from None
        check_plain(part)
        return part


if TYPE_CHECKING:
    _Called = BaseModel  # so that a type checker sees the fields of a part as arguments
else:

    class _Called(BaseModel, metaclass=_Told):
        pass


class SpecPart(_Called):
    """A part of a spec: plain, validated data that cannot be changed.

    Wrong fields raise `SpecError`.
    """

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


def check_plain(part: BaseModel) -> None:
    """Raise `SpecError` when JSON cannot hold the part; the manifest keeps it as JSON."""
    try:
        json.dumps(part.model_dump(mode="json", exclude_unset=True))
    except (ValueError, TypeError, OverflowError, RecursionError) as err:
        raise SpecError(f"the spec holds a value that JSON cannot: {err}") from None
