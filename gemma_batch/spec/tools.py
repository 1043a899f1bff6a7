"""The `tools` part of a spec: the functions that a model may call in its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gemma_batch.spec.spec_part import SpecPart


class NamedTool(SpecPart):
    """The one function that every answer must call."""

    name: str
    """The name of the function."""


class Tools(SpecPart):
    """The functions that a model may call in its answers.

    Nothing is run: the calls are parsed into the column `tool_calls`, and the text beside them
    stays in `output`. See [function calls](answers.md#function-calls).
    """

    definitions: str | Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    """The functions in OpenAI's form, `{type: function, function: {name, description, parameters}}`
    or its inner part: a list, or the path of a JSON file that holds such a list."""

    choice: Literal["auto", "required", "none"] | NamedTool = "auto"
    """`auto`: the model decides whether it calls a function. `required`: every answer is a call, or
    several. `none`: the model sees the functions and calls none. `{name: ...}`: every answer calls
    this function."""
