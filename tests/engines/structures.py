"""Schemas of answers, for the plan's rules and for the vLLM at hand (see `asked_vllm.py`)."""

from __future__ import annotations

from typing import Any

WHOLE, TEXT = {"type": "integer"}, {"type": "string"}


def record(*needed: str, **more: Any) -> dict[str, Any]:
    """An object with the properties `a` and `b`."""
    return {"type": "object", "properties": {"a": WHOLE, "b": TEXT}, "required": [*needed], **more}


# Schemas that can be enforced.
ENFORCED: list[dict[str, Any]] = [
    {},
    record(),
    record("a", "b", additionalProperties=False, minProperties=2),
    record(additionalProperties=TEXT),
    {"type": "object", "additionalProperties": WHOLE, "minProperties": 1, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^x[0-9]$": WHOLE}, "additionalProperties": False},
    {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": WHOLE},
    {"type": "array", "items": WHOLE, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [WHOLE, TEXT], "items": False, "minItems": 2},
    {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 9},
    {"type": "number", "minimum": 0.5, "maximum": 2},
    {"type": "string", "pattern": "^a+$"},
    {"type": "string", "minLength": 1, "maxLength": 4},
    *[
        {"type": "string", "format": name}
        for name in (
            "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri",
            "uri-reference", "uri-template", "uuid", "json-pointer", "relative-json-pointer",
        )
    ],
    {"enum": ["a", 1, None, {"x": [1]}]},
    {"type": "string", "enum": ["a", "b"]},
    {"const": {"x": 1.5}},
    {"anyOf": [WHOLE, {"type": "null"}], "default": None, "title": "A"},
    {"oneOf": [WHOLE, TEXT]},
    {"allOf": [WHOLE]},
    {"$defs": {"x": WHOLE}, "$ref": "#/$defs/x", "description": "d"},
    {"type": "object", "properties": {"parts": {"type": "array", "items": {"$ref": "#"}}}},
]  # fmt: skip
# Schemas that cannot be enforced. With each a text that breaks it, which the engine would let
# through; without one, the engine refuses the schema itself.
NOT_ENFORCED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"type": "number", "multipleOf": 0.5}, "multipleOf", None),
    ({"type": "array", "items": WHOLE, "uniqueItems": True}, "uniqueItems", None),
    ({"type": "array", "contains": WHOLE}, "contains", None),
    ({"type": "string", "format": "iban"}, "the format 'iban'", None),
    ({"type": "string", "pattern": "^a$", "maxLength": 3}, "'maxLength' beside 'pattern'", None),
    ({"type": "string", "format": "email", "minLength": 3}, "'minLength' beside 'format'", None),
    (record(propertyNames={"pattern": "^[ab]$"}), "beside 'properties'", None),
    (record(patternProperties={"^x$": WHOLE}), "`patternProperties` beside", None),
    ({"type": "object", "patternProperties": {"^x$": WHOLE, "^y$": WHOLE}}, "beside other", None),
    ({"allOf": [TEXT, {"enum": ["yes"]}]}, "`allOf` with several", None),
    ({"type": "object", "properties": {"a": False}}, "is `false`", None),
    ({"type": "string", "pattern": "^a$", "format": "email"}, "a pattern and a format", '"a@b.co"'),
    ({"type": "integer", "not": {"const": 3}}, "'not'", "3"),
    (record(**{"if": {"required": ["a"]}, "then": {"required": ["b"]}}), "'if'", '{"a":1}'),
    (record(dependentRequired={"a": ["b"]}), "'dependentRequired'", '{"a":1}'),
    (record(dependentSchemas={"a": {"required": ["b"]}}), "'dependentSchemas'", '{"a":1}'),
    (record(anyOf=[{"required": ["a"]}, {"required": ["b"]}]), "beside 'anyOf'", "{}"),
    ({"$defs": {"x": WHOLE}, "$ref": "#/$defs/x", "minimum": 5}, "beside '.ref'", "1"),
    ({"allOf": [{"minimum": 3}], "type": "integer"}, "beside 'allOf'", "2"),
    ({"type": "integer", "enum": [1, 20], "minimum": 5}, "beside 'enum'", "1"),
    ({"type": "string", "enum": ["a", 1]}, "not of the type 'string'", "1"),
    ({"minimum": 5}, "only with the type 'number'", "1"),
    ({"maxLength": 1}, "only with the type 'string'", '"ab"'),
    ({"format": "date"}, "only with the type 'string'", '"x"'),
]
