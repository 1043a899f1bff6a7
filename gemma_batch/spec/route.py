"""The `routes` part of a spec: the rows that go to one model."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from gemma_batch.spec.spec_part import SpecPart

SINGLE_ROUTE = "all"  # the route of a job that names just a model
ROUTE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Route(SpecPart):
    """Rows that go to one model. The first route whose `when` is true takes the row."""

    name: str
    """The name of the route in the column `route` and in file names: lower-case letters, digits
    and `_`, a letter first, at most 32 characters. `retry` and `retry1` and so on are taken."""

    model: str
    """The model that answers the rows of this route; as the job's `model`."""

    revision: str | None = None
    """The revision of the model; as the job's `revision`."""

    when: str | None = None
    """The rows that the route takes: one SQL expression of DuckDB over the columns of the row,
    such as `length(body) > 12000`. It cannot reach files or the network, and may only call
    functions that give the same value each time. Every route but the last needs one; the last has
    none and takes the rest."""

    resources: dict[str, Any] = Field(default_factory=dict)
    """Fields of `resources` that differ for this route; all but `gpu`."""

    @field_validator("name")
    @classmethod
    def _slug(cls, value: str) -> str:
        if not ROUTE_NAME.fullmatch(value) or re.fullmatch(r"retry\d*", value):
            raise ValueError(
                f"{value!r} is no route name: use lower-case letters, digits and _, starting "
                "with a letter (it becomes part of file names; 'retry' is taken)"
            )
        return value
