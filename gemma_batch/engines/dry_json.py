"""Values that fit a JSON schema, made up from random numbers (driver, GPU actor).

A dry run answers with them, and the plan counts the tokens of the smallest one.
"""

from __future__ import annotations

import functools
import json
import math
import uuid
from collections.abc import Mapping
from random import Random
from typing import Any

from gemma_batch.spec import patterns
from gemma_batch.spec.json_schema import Heights, target, types_of

DEPTH = 6  # levels after which a value takes the least nested way
MORE = 3  # items, characters and the like beyond the least number
SPREAD = 100  # of numbers without bounds
WORDS = ("alpha", "beta", "gamma", "delta", "omega", "one two", "x")


class Instances:
    """Makes values of one schema."""

    def __init__(self, schema: Any) -> None:
        self._root, self._heights = schema, Heights(schema)

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def of(text: str) -> Instances:
        """The maker for a schema as JSON text."""
        return Instances(json.loads(text))

    def make(self, random: Random) -> Any:
        """A value. The same random numbers give the same value."""
        return self._make(self._root, random, 0)

    def smallest(self) -> Any:
        """About the smallest value."""
        return self._make(self._root, _Least(0), DEPTH)

    def _make(self, schema: Any, random: Random, depth: int) -> Any:
        if schema is True or schema == {}:
            return None
        if "$ref" in schema:
            return self._make(target(self._root, schema["$ref"]), random, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        for keyword in ("anyOf", "oneOf", "allOf"):
            if ways := schema.get(keyword):
                return self._make(self._way(ways, random, depth), random, depth)
        types = [kind for kind in types_of(schema) if self._known({**schema, "type": kind})]
        if depth >= DEPTH:
            types = [min(types, key=lambda kind: kind in ("array", "object"))]
        kind = random.choice(types)
        if kind == "object":
            return self._object(schema, random, depth)
        if kind == "array":
            return self._array(schema, random, depth)
        return _simple(kind, schema, random)

    def _known(self, schema: Mapping[str, Any]) -> bool:
        # `Heights` knows the schemas of the root; a copy with one type has the same parts.
        return self._heights.measure(schema) is not None

    def _way(self, ways: list[Any], random: Random, depth: int) -> Any:
        known = [way for way in ways if self._heights.of(way) is not None]
        if depth < DEPTH:
            return random.choice(known)
        return min(known, key=lambda way: self._heights.of(way) or 0)

    def _array(self, schema: Mapping[str, Any], random: Random, depth: int) -> list[Any]:
        fixed, items = schema.get("prefixItems", []), schema.get("items", True)
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", math.inf), max(least, len(fixed)) + MORE)
        if items is False or self._heights.of(items) is None:
            most = min(most, len(fixed))
        count = least if depth >= DEPTH else random.randint(least, int(max(least, most)))
        return [
            self._make(fixed[n] if n < len(fixed) else items, random, depth + 1)
            for n in range(count)
        ]

    def _object(self, schema: Mapping[str, Any], random: Random, depth: int) -> dict[str, Any]:
        needed = set(schema.get("required", ()))
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        given = schema.get("properties", {})
        optional = [
            name
            for name, one in given.items()
            if name not in needed and self._heights.of(one) is not None
        ]
        wanted = set(needed)
        for name in optional:
            few = len(wanted) < least
            if few or (depth < DEPTH and len(wanted) < most and random.random() < 0.5):
                wanted.add(name)
        found = {
            name: self._make(one, random, depth + 1)
            for name, one in given.items()
            if name in wanted
        }
        self._fill(found, schema, random, depth, least)
        return found

    def _fill(
        self,
        found: dict[str, Any],
        schema: Mapping[str, Any],
        random: Random,
        depth: int,
        least: int,
    ) -> None:
        """Add properties without a name of their own, as many as there must be."""
        named = schema.get("patternProperties")
        names = schema.get("propertyNames", True)
        inner = next(iter(named.values())) if named else schema.get("additionalProperties", True)
        more = 0 if depth >= DEPTH or not named else 1
        for turn in range(1000):
            if len(found) >= least + more or inner is False:
                return
            if named:
                name = patterns.example(patterns.parsed(next(iter(named))), random)
            elif isinstance(names, Mapping):
                name = self._make({"type": "string", **names}, random, depth)
            else:
                name = f"key{turn}"
            found[name] = self._make(inner, random, depth + 1)


class _Least(Random):
    """Chooses the first, the shortest and the least of everything."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: Any) -> Any:
        return min(seq, key=lambda one: len(json.dumps(one, default=str)))

    def randint(self, a: int, b: int) -> int:
        return a


def _simple(kind: str, schema: Mapping[str, Any], random: Random) -> Any:
    if kind == "string":
        return _text(schema, random)
    if kind == "integer":
        low, high = _bounds(schema)
        return random.randint(math.ceil(low), math.floor(high))
    if kind == "number":
        low, high = _bounds(schema)
        exact = round(low + (high - low) * random.random(), 2)
        return exact if low <= exact <= high else (low + high) / 2
    return None if kind == "null" else random.choice([False, True])


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    """A range within the bounds of a number, near 0 where there is a choice."""
    whole = "integer" in types_of(schema)
    low = schema.get("minimum", -math.inf)
    high = schema.get("maximum", math.inf)
    step = 1 if whole else 0.01
    if (above := schema.get("exclusiveMinimum")) is not None:
        low = max(low, above + min(step, (schema.get("maximum", above + 1) - above) / 2 or step))
    if (below := schema.get("exclusiveMaximum")) is not None:
        low_known = low if low > -math.inf else below - 1
        high = min(high, below - (1 if whole else min(step, (below - low_known) / 2 or step)))
    start = min(max(low, 0), high)
    return (max(low, start), min(high, start + SPREAD))


def _text(schema: Mapping[str, Any], random: Random) -> str:
    if (pattern := schema.get("pattern")) is not None:
        return patterns.example(patterns.parsed(pattern, json=True), random)
    number = random.randint(0, 250)
    known = {
        "uuid": str(uuid.UUID(int=random.getrandbits(128), version=4)),
        "email": f"name{number}@example.org",
        "ipv4": f"192.0.2.{number}",
        "ipv6": f"2001:db8::{number:x}",
        "hostname": f"host{number}.example.org",
        "uri": f"https://example.org/{number}",
        "uri-reference": f"/{number}",
        "uri-template": f"/{number}",
        "json-pointer": f"/{number}",
        "relative-json-pointer": f"{number}",
        "duration": f"P{number + 1}D",
    }
    if (name := schema.get("format")) in known:
        return known[name]
    return random.choice(["", *WORDS])
