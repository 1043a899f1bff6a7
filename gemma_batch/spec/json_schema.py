"""JSON schemas of answers: which of them a job can ask for (every process).

A schema must be a valid one of the draft 2020-12, within bounds, without references that leave it,
and there must be a value that fits it. What an engine can enforce is the engine's own matter (see
`engines/enforced.py`). Every refusal names the place in the schema by its JSON pointer.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gemma_batch.spec import patterns

MAX_BYTES = 2**18  # of the schema as JSON
MAX_WIDE = 20_000  # mappings and lists on one level
MAX_DEPTH = 32  # values in each other; vLLM takes 64, a spec as YAML takes 50
MAX_SCHEMAS = 2000  # schemas within the schema, and columns that come of it
# Where schemas stand within a schema: in a mapping of names, in a list, or alone.
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
ALONE = (
    "items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
# Keywords that say nothing about a value. Names that begin with `x-` say nothing either.
REMARKS = frozenset({
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
    "$comment", "$schema", "$id", "discriminator", "contentMediaType", "contentEncoding",
    "contentSchema",
})  # fmt: skip
# Keywords that mean something for values of one type only.
OF_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": (
        "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains",
        "maxContains", "unevaluatedItems",
    ),
    "object": (
        "properties", "patternProperties", "additionalProperties", "propertyNames", "required",
        "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies",
        "unevaluatedProperties",
    ),
}  # fmt: skip
GENERAL = ("type", "enum", "const", "$ref", *LISTED[:3], "not", "if", "then", "else")
KEYWORDS = frozenset({*NAMED, *GENERAL, *REMARKS, *(k for ks in OF_TYPE.values() for k in ks)})
BOUNDS = (
    ("minLength", "maxLength"), ("minimum", "maximum"), ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)  # fmt: skip


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `ValueError`, a sentence about the first fault, for a schema no job can ask for."""
    if deep(schema):
        raise ValueError(
            f"the schema nests values more than {MAX_DEPTH} levels deep, or holds too many of them"
        )
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("the schema holds half a character (a lone surrogate)") from None
    except (ValueError, TypeError) as err:
        raise ValueError(f"the schema holds a value that JSON cannot: {err}") from None
    if size > MAX_BYTES:
        raise ValueError(f"the schema has {size:,} bytes as JSON, and {MAX_BYTES:,} are the most")
    if (fault := _fault(text)) is not None:
        raise ValueError(fault)


def deep(value: Any) -> bool:
    """Whether a value nests mappings and lists more than `MAX_DEPTH` levels deep.

    Also True where one level holds so many that the value is too large in any case.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        if len(level) > MAX_WIDE:
            return True
        inner = [one.values() if isinstance(one, Mapping) else one for one in level]
        level = [x for one in inner for x in one if isinstance(x, Mapping | list | tuple)]
    return bool(level)


@functools.lru_cache(maxsize=64)
def _fault(text: str) -> str | None:
    # A spec is validated several times on its way, and its schema need be looked at once.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    schema = json.loads(text)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as err:
        place = "".join(f"/{escaped(str(part))}" for part in err.absolute_path)
        return f"{shown(place)} is no valid JSON schema: {err.message[:300]}"
    try:
        for place, one in subschemas(schema):
            _check_one(schema, place, one)
        check_value_exists(schema)
    except ValueError as err:
        return str(err)
    return None


def shown(place: str) -> str:
    """A place in a schema, for a sentence."""
    return f"the schema's {place!r}" if place else "the schema"


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def parts_of(place: str, schema: Any) -> Iterator[tuple[str, Any]]:
    """The schemas that stand directly within a schema, with their JSON pointers."""
    if not isinstance(schema, Mapping):
        return
    for keyword in NAMED:
        for name, inner in schema.get(keyword, {}).items():
            yield f"{place}/{keyword}/{escaped(name)}", inner
    for keyword in LISTED:
        for number, inner in enumerate(schema.get(keyword, ())):
            yield f"{place}/{keyword}/{number}", inner
    for keyword in ALONE:
        if keyword in schema:
            yield f"{place}/{keyword}", schema[keyword]


def subschemas(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every schema in a schema, itself included, with its JSON pointer."""
    waiting: list[tuple[str, Any]] = [("", schema)]
    count = 0
    while waiting:
        place, one = waiting.pop()
        count += 1
        if count > MAX_SCHEMAS:
            raise ValueError(f"the schema holds more than {MAX_SCHEMAS:,} schemas")
        yield place, one
        waiting += reversed(list(parts_of(place, one)))


def types_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that `type` allows; () without `type`."""
    given = schema.get("type", ())
    return (given,) if isinstance(given, str) else tuple(given)


def _check_one(root: Any, place: str, schema: Any) -> None:
    where = shown(place)
    if not isinstance(schema, Mapping):
        return
    for keyword in schema:
        if keyword not in KEYWORDS and not keyword.startswith("x-"):
            near = difflib.get_close_matches(keyword, KEYWORDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where} has {keyword!r}, which answers cannot be checked by{hint}")
    if "$id" in schema and place:
        raise ValueError(f"{where} has an `$id`, which moves its references elsewhere")
    if (reference := schema.get("$ref")) is not None:
        target(root, reference, where)
    if schema.get("enum") == []:
        raise ValueError(f"{where} has an `enum` without a value, which nothing fits")
    _check_bounds(schema, where)
    if (pattern := schema.get("pattern")) is not None:
        _check_pattern(pattern, f"{where} has the pattern")
    for name in schema.get("patternProperties", ()):
        _check_pattern(name, f"{where} has a property with the pattern")
    names = list(schema.get("properties", ()))
    if doubled := differ_by_case(names):
        raise ValueError(
            f"{where} has the properties {doubled[0]!r} and {doubled[1]!r}, whose names differ "
            "only by case: many programs cannot tell such columns apart"
        )
    for name in names:
        if not name or "\x00" in name:
            raise ValueError(f"{where} has a property named {name!r}, which can name no column")
    if lacking := [name for name in schema.get("required", ()) if name not in names]:
        raise ValueError(
            f"{where} requires the property {lacking[0]!r}, which `properties` does not have"
        )


def _check_pattern(pattern: str, what: str) -> None:
    try:
        patterns.check(pattern, json=True)
    except ValueError as err:
        raise ValueError(f"{what} {pattern[:200]!r}: {err}") from None


def _check_bounds(schema: Mapping[str, Any], where: str) -> None:
    for least, most in BOUNDS:
        if least in schema and most in schema and schema[least] > schema[most]:
            raise ValueError(
                f"{where} allows nothing: {least} {schema[least]!r} is above {most} "
                f"{schema[most]!r}"
            )
    if "integer" in types_of(schema):
        for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            value = schema.get(name)
            if value is not None and (value != int(value) or not -(2**63) <= value < 2**63):
                raise ValueError(f"{where}: {name} {value!r} is no whole number of 64 bits")
    for name in ("minLength", "maxLength", "minItems", "maxItems", "minProperties"):
        if schema.get(name, 0) > 2**31 - 1:
            raise ValueError(f"{where}: {name} {schema[name]!r} is too large")


def differ_by_case(names: list[str]) -> tuple[str, str] | None:
    """Two of the names that are the same for a program that ignores case; None without any."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            return other, name
    return None


def target(root: Any, reference: str, where: str = "the schema") -> Any:
    """The schema that a `$ref` names. Raises `ValueError` unless it stands in the same schema."""
    if not reference.startswith("#"):
        raise ValueError(
            f"{where} refers to {reference!r}, outside of the schema: copy it into `$defs`"
        )
    if "%" in reference or (reference != "#" and not reference.startswith("#/")):
        raise ValueError(
            f"{where} refers to {reference!r}: only JSON pointers such as '#/$defs/name' are "
            "followed, and without percent signs"
        )
    found = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise ValueError(f"{where} refers to {reference!r}, which does not exist")
    if not isinstance(found, Mapping | bool):
        raise ValueError(  # noqa: TRY004  (bad data, not bad code)
            f"{where} refers to {reference!r}, which is no schema"
        )
    return found


def check_value_exists(root: Mapping[str, Any]) -> None:
    """Raise `ValueError` when every value of the schema would have to hold itself."""
    if Heights(root).of(root) is None:
        raise ValueError(
            "no value fits the schema: a required part of it holds itself, or it allows nothing"
        )


class Heights:
    """How deep a schema's least nested values nest, so that recursion can be ended.

    The height of a value without parts is 0. Of a schema that no finite value fits it is None.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, int | None] = {}
        every = list(subschemas(root))
        before = None
        while before != self._known:  # every round settles at least one more height
            before = dict(self._known)
            every.reverse()  # references lead to either side
            for _, one in every:
                self._known[id(one)] = self._height(one)

    def of(self, schema: Any) -> int | None:
        """The height of a schema that stands in the root."""
        return 0 if schema is True else self._known.get(id(schema))

    def measure(self, schema: Mapping[str, Any]) -> int | None:
        """The height of a schema whose parts stand in the root."""
        return self._height(schema)

    def _height(self, schema: Any) -> int | None:
        if isinstance(schema, bool):
            return 0 if schema else None
        if "enum" in schema or "const" in schema:
            return 0
        if "$ref" in schema:
            return self.of(target(self._root, schema["$ref"]))
        for keyword in LISTED[:3]:
            if ways := schema.get(keyword):
                known = [height for one in ways if (height := self.of(one)) is not None]
                return min(known) if known else None
        types = types_of(schema)
        if set(types) - {"array", "object"} or not types:
            return 0
        return min(
            (height for kind in types if (height := self._nested(kind, schema)) is not None),
            default=None,
        )

    def _nested(self, kind: str, schema: Mapping[str, Any]) -> int | None:
        if kind == "object":
            needed = [schema["properties"][name] for name in schema.get("required", ())]
        else:
            fixed = schema.get("prefixItems", [])
            count = schema.get("minItems", 0)
            needed = list(fixed[:count])
            if count > len(fixed):
                needed.append(schema.get("items", True))
        heights = [self.of(one) for one in needed]
        if None in heights:
            return None
        return 1 + max((height for height in heights if height is not None), default=-1)
