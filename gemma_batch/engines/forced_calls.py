"""Forced calls: the JSON schema of a list of calls, for answers that have to call (driver, actor).

The engine can force JSON of any schema, whatever the model, so that every forced answer is a list
`[{"name": ..., "parameters": {...}}]`. The engine's grammar knows less than JSON schema. What it
does not know is left out here (a schema of an answer would be refused for it, see
`engines/enforced.py`), and each call is checked against the whole schema when it is read.
"""

from __future__ import annotations

from typing import Any

from gemma_batch.spec import Tools
from gemma_batch.spec.json_schema import types_of

MOST_CALLS = 32
_SEVERAL = ("anyOf", "oneOf", "allOf")
# What is enforced of a type. The lengths of texts are not: with a length, the engine writes none of
# the characters that JSON writes with a backslash.
ENFORCED = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_TELLS = {"properties": "object", "items": "array"}  # the type of a schema that names none


def forced_schema(tools: Tools) -> dict[str, Any]:
    """The schema of the answers: a list of at least one call."""
    choice = tools.choice
    named = None if isinstance(choice, str) else choice.name
    functions = [one for one in tools.functions if named in (None, one["name"])]
    calls = []
    for place, one in enumerate(functions):
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": one["name"]},
                    "parameters": {"$ref": f"#/$defs/f{place}"},
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_CALLS if named is None else 1,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
        "$defs": {
            f"f{place}": _enforced(one["parameters"], f"#/$defs/f{place}")
            for place, one in enumerate(functions)
        },
    }


def _enforced(schema: Any, root: str) -> Any:
    """The part of a schema that the engine enforces; references lead below `root`."""
    if not isinstance(schema, dict):
        return schema
    inner = {
        name: {one: _enforced(value, root) for one, value in schema[name].items()}
        for name in ("$defs", "definitions")
        if isinstance(schema.get(name), dict)
    }
    if "$ref" in schema:
        return inner | {"$ref": root + str(schema["$ref"]).removeprefix("#")}
    if "const" in schema:
        return inner | {"const": schema["const"]}
    if schema.get("enum"):
        return inner | {"enum": list(schema["enum"])}
    for name in _SEVERAL:
        if isinstance(schema.get(name), list) and "properties" not in schema:
            ways = [_enforced(one, root) for one in schema[name]]
            # Of several that all hold, the engine would enforce only the first.
            return inner | ({"anyOf": ways} if name != "allOf" or len(ways) == 1 else {})
    return inner | _of_types(schema, root)


def _of_types(schema: dict[str, Any], root: str) -> dict[str, Any]:
    types = types_of(schema) or tuple(kind for name, kind in _TELLS.items() if name in schema)
    if not types:
        return {}
    found: dict[str, Any] = {"type": list(types) if len(types) > 1 else types[0]}
    known = {"number" if kind == "integer" else kind for kind in types}
    names = [name for kind in ENFORCED if kind in known for name in ENFORCED[kind]]
    for name in names:
        if name not in schema:
            continue
        value = schema[name]
        if name == "properties":
            found[name] = {one: _enforced(inner, root) for one, inner in value.items()}
        elif name == "required":
            found[name] = [one for one in value if one in schema.get("properties", {})]
        elif name in ("items", "additionalProperties"):
            found[name] = _enforced(value, root)
        elif name == "prefixItems":
            found[name] = [_enforced(one, root) for one in value]
        else:
            found[name] = value
    return found
