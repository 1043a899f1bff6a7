"""The `tools` part of a spec: the functions that a model may call in its answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gemma_batch.spec.spec_part import SpecPart

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
MOST_FUNCTIONS = 128
MOST_BYTES = 256 * 1024  # of all definitions together
DEEPEST = 24  # schemas inside each other


class NamedTool(SpecPart):
    """The one function that every answer must call."""

    name: str
    """The name of the function."""


class Tools(SpecPart):
    """The functions that a model may call in its answers.

    Nothing is run: the calls are parsed into the column `tool_calls`, and the text beside them
    stays in `output`. See [function calls](answers.md#function-calls).
    """

    definitions: str | Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] | None = None
    """The functions in OpenAI's form, `{type: function, function: {name, description, parameters}}`
    or its inner part: a list, or the path of a JSON file that holds such a list."""

    choice: Literal["auto", "required", "none"] | NamedTool = "auto"
    """Who decides. `auto`: the model calls functions where it wants to. `required`: every answer is
    a call, or several. `none`: the model sees the functions and calls none. `{name: ...}`: every
    answer calls this function."""

    rows: bool | None = None
    """Rows bring their functions along, by `tools` and `tool_choice` in their parameters, instead
    of `definitions` for all rows. Default: true when a row of the plan's sample does. See
    [rows with a shape of their own](answers.md#rows-with-a-shape-of-their-own)."""

    @model_validator(mode="after")
    def _one_source(self) -> Tools:
        if self.rows is None and self.definitions is None:
            raise ValueError("there are no functions: give `definitions`")
        if self.rows is not None and self.definitions is not None:
            raise ValueError(
                "`rows` is about functions that rows bring, and `definitions` are the functions "
                "of all rows: keep one"
            )
        if self.rows is not None and self.choice != "auto":
            raise ValueError(
                "a row that brings its functions says `tool_choice`: leave `choice` out"
            )
        return self

    @field_validator("definitions")
    @classmethod
    def _valid(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if len(value) > MOST_FUNCTIONS:
            raise ValueError(f"{len(value):,} functions are more than {MOST_FUNCTIONS}")
        if (size := len(json.dumps(value).encode())) > MOST_BYTES:
            raise ValueError(f"the definitions take {size:,} bytes, more than {MOST_BYTES:,}")
        names: list[str] = []
        for place, one in enumerate(value):
            name = _check(one, f"function {place}")
            if name in names:
                raise ValueError(f"two functions are named {name!r}: names must differ")
            names.append(name)
        return value

    @model_validator(mode="after")
    def _choice_is_there(self) -> Tools:
        if isinstance(self.choice, NamedTool) and isinstance(self.definitions, tuple):
            names = [one["name"] for one in self.functions]
            if self.choice.name not in names:
                raise ValueError(
                    f"`choice` names the function {self.choice.name!r}, which `definitions` do "
                    f"not have (they have {', '.join(names)})"
                )
        return self

    @property
    def functions(self) -> tuple[dict[str, Any], ...]:
        """The functions as {name, description, parameters}.

        Empty while they are a path, and where rows bring them.
        """
        if not isinstance(self.definitions, tuple):
            return ()
        return tuple(_inner(one) for one in self.definitions)

    @property
    def forced(self) -> bool:
        """Whether every answer has to call a function."""
        return self.choice == "required" or isinstance(self.choice, NamedTool)

    @property
    def mode(self) -> Literal["auto", "required", "none"]:
        """The choice, with "required" where one function is named."""
        return self.choice if isinstance(self.choice, str) else "required"


def _inner(one: Mapping[str, Any]) -> dict[str, Any]:
    function = one["function"] if isinstance(one.get("function"), dict) else one
    parameters = function.get("parameters") or {}
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": {"type": "object", "properties": {}, **parameters},
    }


def _check(one: Mapping[str, Any], where: str) -> str:
    """The name of the function. Raises `ValueError` for a definition that cannot be used."""
    function: Any = one
    if "function" in one or "type" in one:
        if one.get("type", "function") != "function":
            raise ValueError(f"{where} has the type {one['type']!r}: only functions can be called")
        function = one.get("function")
        if not isinstance(function, dict):
            raise ValueError(f"{where} has no object `function` with its name and parameters")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{where} has the name {name!r}: a name has up to 64 letters, digits, `_`, `-` and "
            "`.`, and begins with a letter or `_`"
        )
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise ValueError(f"the description of the function {name!r} is no text")
    parameters = function.get("parameters")
    if parameters is not None:
        _check_parameters(parameters, f"the parameters of the function {name!r}")
    return name


def _check_parameters(schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        text = f"{where} are {type(schema).__name__}, and not a JSON schema"
        raise ValueError(text)  # noqa: TRY004  (bad data, not bad code)
    if schema.get("type", "object") != "object":
        raise ValueError(f"{where} have the type {schema['type']!r}: arguments are an object")
    for inner, depth in _inside(schema):
        if depth > DEEPEST:
            raise ValueError(f"{where} are nested deeper than {DEEPEST}")
        reference = inner.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise ValueError(
                f"{where} refer to {reference!r}: put the schema that it names into `$defs` here"
            )
    import jsonschema  # slow to import, and only a job with functions needs it

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        _check_references(schema)
    except jsonschema.SchemaError as err:
        path = "/".join(map(str, err.absolute_path))
        raise ValueError(f"{where} are no JSON schema: {path}: {err.message}"[:400]) from None
    except (LookupError, ValueError) as err:
        raise ValueError(f"{where} have a reference that leads nowhere: {err}"[:400]) from None


def _inside(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Every object in a schema with its depth, from the outside to the inside."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, dict):
            yield one, depth
            waiting += [(inner, depth + 1) for inner in one.values()]
        elif isinstance(one, list):
            waiting += [(inner, depth) for inner in one]


def _check_references(schema: dict[str, Any]) -> None:
    for inner, _ in _inside(schema):
        reference = inner.get("$ref")
        if not isinstance(reference, str):
            continue
        target: Any = schema
        for written in filter(None, reference.removeprefix("#").split("/")):
            part = written.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or part not in target:
                raise LookupError(repr(reference))
            target = target[part]
