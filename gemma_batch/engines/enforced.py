"""Which shapes of answers an engine's grammars can enforce (driver, laptop).

vLLM's backend here, xgrammar, takes no notice of some keywords of JSON schemas. It refuses others
only when a request comes in, with an engine up and paid for. So the plan looks before the start.
Every keyword that is refused here was seen to be ignored or refused. A test compares these rules
with the vLLM at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gemma_batch.engines import grammars
from gemma_batch.spec.json_schema import KEYWORDS, OF_TYPE, REMARKS, shown, subschemas, types_of

IGNORED = (
    "multipleOf", "uniqueItems", "contains", "minContains", "maxContains", "not", "if", "then",
    "else", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
FORMATS = (
    "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri",
    "uri-reference", "uri-template", "uuid", "json-pointer", "relative-json-pointer",
)  # fmt: skip
# Keywords beside which no other keyword is enforced, with what may stand there all the same.
ALONE = {"$ref": (), "anyOf": (), "oneOf": (), "allOf": (), "enum": ("type",), "const": ("type",)}
BESIDE = REMARKS | {"$defs", "definitions"}
JSON_TYPES = {
    "string": str, "boolean": bool, "object": dict, "array": list, "null": type(None),
}  # fmt: skip


def check_rules(structure: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a shape that cannot be enforced, by the rules of this module.

    `structure` is the sampling parameter `structured_outputs`. The sentence begins with the field
    of `answer`.
    """
    if (text := structure.get("json")) is not None:
        try:
            _check_schema(json.loads(text))
        except ValueError as err:
            raise ValueError(f"schema: {err}") from None


def check_structure(structure: Mapping[str, Any]) -> list[str]:
    """The same as `check_rules`. Where xgrammar is installed, it has to take the shape as well.

    Returns notes for people.
    """
    check_rules(structure)
    field = {"json": "schema", "regex": "regex", "grammar": "grammar"}
    for name, value in structure.items():
        if name not in field:
            continue
        if not grammars.installed():
            if name == "grammar":
                return [
                    "answer.grammar was not looked at, since xgrammar (a part of vLLM) is not "
                    "installed here: an engine that cannot read it will refuse every row"
                ]
        elif (fault := grammars.fault(name, value)) is not None:
            raise ValueError(f"{field[name]}: xgrammar, which enforces it, refuses it: {fault}")
    return []


def _check_schema(schema: Any) -> None:
    for place, one in subschemas(schema):
        if isinstance(one, Mapping):
            _check_one(one, shown(place))
        elif one is False and not place.endswith(
            ("/additionalProperties", "/items", "/unevaluatedItems", "/unevaluatedProperties")
        ):
            raise ValueError(f"{shown(place)} is `false`, which no value fits: leave it out")


def _check_one(schema: Mapping[str, Any], where: str) -> None:
    for keyword in IGNORED:
        if keyword in schema and (keyword, schema[keyword]) != ("uniqueItems", False):
            raise ValueError(f"{where} has {keyword!r}, which the engine cannot enforce")
    for keyword, beside in ALONE.items():
        if keyword not in schema:
            continue
        others = schema.keys() & KEYWORDS - BESIDE - {keyword, *beside}
        if others:
            raise ValueError(
                f"{where} has {sorted(others)[0]!r} beside {keyword!r}, and the engine would "
                "enforce only one of the two: write them into one"
            )
    if len(schema.get("allOf", ())) > 1:
        raise ValueError(
            f"{where} has `allOf` with several schemas, which the engine cannot enforce: write "
            "them into one"
        )
    types = types_of(schema)
    for value in schema.get("enum", [schema["const"]] if "const" in schema else []):
        if types and not any(_is(value, kind) for kind in types):
            raise ValueError(f"{where} names {value!r}, which is not of the type {types[0]!r}")
    _check_types(schema, types, where)


def _check_types(schema: Mapping[str, Any], types: tuple[str, ...], where: str) -> None:
    known = {"number" if kind == "integer" else kind for kind in types}
    if where.endswith("/propertyNames'"):
        known.add("string")
    for kind, keywords in OF_TYPE.items():
        if kind not in known and (found := [name for name in keywords if name in schema]):
            raise ValueError(
                f"{where} has {found[0]!r}, which is enforced only with the type {kind!r}: name "
                "the type"
            )
    if (name := schema.get("format")) is not None and name not in FORMATS:
        raise ValueError(
            f"{where} has the format {name!r}, which the engine cannot enforce (it can: "
            f"{', '.join(FORMATS)})"
        )
    if "pattern" in schema and "format" in schema:
        raise ValueError(f"{where} has a pattern and a format: the engine can enforce one of them")
    _check_lengths(schema, where)
    if "propertyNames" in schema:
        names = schema["propertyNames"]
        _check_lengths(names if isinstance(names, Mapping) else {}, where)
        for other in ("properties", "patternProperties"):
            if other in schema:
                raise ValueError(
                    f"{where} has `propertyNames` beside {other!r}, which the engine cannot enforce"
                )
    if "patternProperties" in schema and (
        "properties" in schema or len(schema["patternProperties"]) > 1
    ):
        raise ValueError(
            f"{where} has `patternProperties` beside other properties, which the engine cannot "
            "enforce"
        )


def _check_lengths(schema: Mapping[str, Any], where: str) -> None:
    for name in ("pattern", "format"):
        for bound in ("minLength", "maxLength"):
            if name in schema and bound in schema:
                raise ValueError(
                    f"{where} has {bound!r} beside {name!r}, which the engine cannot enforce: "
                    "write the length into a pattern"
                )


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        number = whole if kind == "integer" else isinstance(value, int | float)
        return number and not isinstance(value, bool)
    return isinstance(value, JSON_TYPES[kind])
