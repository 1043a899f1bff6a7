"""Tool schema: the parameters of a function as the chat templates of Gemma can show them.

The templates look at `type`, `properties`, `items`, `enum` and `nullable`, and at no reference, no
list of types and no `anyOf`: what stands there would not reach the model. So references are
replaced by the schemas that they name, and "a type or null" becomes a type that is nullable. Calls
are checked by the schema as it was given. This module is a pure function of data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEFINITIONS = ("$defs", "definitions")


def shown_function(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function in OpenAI's form, for the variable `tools` of a chat template."""
    parameters = _shown(function["parameters"], function["parameters"], ())
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _shown(schema: Any, root: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    """The schema without references; it stands inside of those in `inside`."""
    if not isinstance(schema, dict):
        return {}
    found = {name: value for name, value in schema.items() if name not in _DEFINITIONS}
    if (reference := found.pop("$ref", None)) is not None:
        if reference in inside:  # it holds itself
            return {"type": "object", **found}
        return _shown({**_target(root, str(reference)), **found}, root, (*inside, str(reference)))
    _one_type(found)
    if isinstance(found.get("properties"), dict):
        found["properties"] = {
            name: _shown(inner, root, inside) for name, inner in found["properties"].items()
        }
    if "items" in found:
        found["items"] = _shown(found["items"], root, inside)
    for name in ("anyOf", "oneOf"):
        options = found.get(name)
        if isinstance(options, list):
            real = [one for one in options if one != {"type": "null"}]
            if len(real) == 1:  # a type, or null
                del found[name]
                inner = _shown(real[0], root, inside)
                nullable = {"nullable": True} if len(real) < len(options) else {}
                found = {**inner, **found, **nullable}
    return found


def _one_type(found: dict[str, Any]) -> None:
    kind = found.get("type")
    if isinstance(kind, list):
        real = [one for one in kind if one != "null"]
        if len(real) == 1:
            found["type"] = real[0]
            if len(real) < len(kind):
                found["nullable"] = True
    if kind is None and "const" in found:
        found["enum"] = [found["const"]]
    values = found.get("enum")
    if kind is None and values and all(isinstance(one, str) for one in values):
        found["type"] = "string"


def _target(root: Mapping[str, Any], reference: str) -> dict[str, Any]:
    target: Any = root
    for part in filter(None, reference.removeprefix("#").split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, dict) else None
    return target if isinstance(target, dict) else {}
