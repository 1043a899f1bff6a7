"""JSON answers: a typed value in each answer, by a JSON schema (driver and GPU actor).

The text is read strictly, checked by `jsonschema`, and brought into the Arrow type of its column. A
text that the engine's grammar allows may still be cut off, name a property twice, or hold a number
that no column can hold.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from typing import Any

from gemma_batch.answering.answers import Fields, Sample, refused
from gemma_batch.answering.arrow_types import (
    FORMATS,
    JsonText,
    Unfit,
    kind_of,
    stored,
    top_properties,
)
from gemma_batch.engines.structure import STRUCTURE, schema_text
from gemma_batch.rows import Refusal
from gemma_batch.spec import patterns

LONGEST_NUMBER = 400  # digits; a 64-bit number needs 20, the smallest with a fraction about 340
SHOWN = 200  # characters of a text in a message
# Formats that are checked besides those that have a type of their own. The engine's grammar alone
# sees to the others.
CHECKED = ("email", "ipv4", "ipv6", "uuid")
CUT_OFF = "the answer was cut off"


class JsonAnswer:
    """Reads a value that fits a JSON schema.

    `flatten` gives one column for each property. With `as_json` the column holds JSON text,
    whatever the schema.
    """

    def __init__(
        self, schema: Mapping[str, Any], *, flatten: bool = False, as_json: bool = False
    ) -> None:
        self._schema, self._flatten = schema, flatten
        self._text = json.dumps(schema)
        self._kind = JsonText() if as_json else kind_of(schema)
        self._columns = top_properties(schema) if flatten else ()

    def fields(self) -> Fields:
        """`answer` with the schema's type, or a column for each property."""
        if self._flatten:
            return [(name, kind.type) for name, kind in self._columns]
        return [("answer", self._kind.type)]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """The engine writes nothing but JSON that fits the schema."""
        return {STRUCTURE: {"json": schema_text(self._schema)}}

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses a text without a value that fits. `output` keeps the text."""
        try:
            found = parsed_json(sample.text)
        except ValueError as err:
            if sample.finish_reason == "length":
                return refused(CUT_OFF)
            return refused(f"the answer {sample.text[:SHOWN]!r} is no JSON that can be kept: {err}")
        if sample.finish_reason == "length" and not _ended(found):
            return refused(CUT_OFF)
        if (fault := self._fault(found)) is not None:
            return refused(f"the answer does not fit the schema: {fault}")
        try:
            value = stored(self._kind, found)
        except Unfit as err:
            return refused(f"the answer cannot be kept in its column: {err}")
        sample.values.update((value or {}) if self._flatten else {"answer": value})
        return None

    def _fault(self, found: Any) -> str | None:
        # `iter_errors` of nested `anyOf` could fill pages: the best match says it in a line.
        from jsonschema.exceptions import best_match

        error = best_match(_validator(self._text).iter_errors(found))
        if error is None:
            return None
        place = "".join(f"/{part}" for part in error.absolute_path)
        return f"{f'{place}: ' if place else ''}{error.message[:SHOWN]}"


def _ended(found: Any) -> bool:
    """Whether a value's text says itself that it has ended; a number may go on."""
    return isinstance(found, bool) or not isinstance(found, int | float)


def parsed_json(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError` for all that cannot be kept as it stands.

    A raw control character within a string is let through: an engine may write one.
    """
    try:
        return json.loads(
            text,
            strict=False,
            object_pairs_hook=_once,
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_fraction,
        )
    except RecursionError:
        raise ValueError("it nests values too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names the property {twice!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"the number {text[:40]} does not fit 64 bits")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} does not fit 64 bits")
    return number


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """A validator of the draft 2020-12. It follows no reference out of the schema."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    checker = FormatChecker(formats=CHECKED)
    for name, kind in FORMATS.items():
        checker.checks(name, raises=Unfit)(_fits(kind))

    def pattern(validator: Any, wanted: str, found: Any, schema: Any) -> Any:
        # Python's `re` can take for ever; and the engine means the whole string.
        if isinstance(found, str) and not patterns.matches(wanted, found, json=True):
            yield ValidationError(f"{found[:SHOWN]!r} does not match {wanted!r}")

    exact = extend(Draft202012Validator, {"pattern": pattern})
    return exact(json.loads(schema), format_checker=checker)


def _fits(kind: Any) -> Any:
    def check(found: Any) -> bool:
        if isinstance(found, str):
            kind.value(found)
        return True

    return check
