"""OwnShape: the shape that a row's own parameters ask its answer to have (Ray CPU task, driver).

OpenAI and vLLM have several names for it. All become one form: one field of the spec's `answer`,
which is `schema`, `choice`, `regex` or `grammar`. Whether a schema, expression or grammar can be
asked for, `Answer` and the engine say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gemma_batch.texts import shortened

Shape = dict[str, Any]  # one field of `Answer`

ANY_OBJECT = {"type": "object"}

# What `structured_outputs` may hold beside the shape: it changes no value of an answer.
_BESIDE = (
    "disable_fallback",
    "disable_any_whitespace",
    "disable_additional_properties",
    "whitespace_pattern",
)


def own_shape(params: dict[str, Any]) -> tuple[Shape | None, dict[str, Any]]:
    """The shape that a row asks for, None for text, and the row's other parameters.

    Raises `ValueError` with the name of a parameter that is no shape, or that asks for another
    shape than the parameter before it.
    """
    found: dict[str, Shape] = {}
    for name, read in _FIELDS.items():
        try:
            value = without_nulls_inside(params.get(name))
            shape = None if _empty(value) else read(value)
        except RecursionError:
            raise ValueError(f"{name!r} is nested too deeply") from None
        except ValueError as err:
            raise ValueError(f"{name!r}: {err}") from None
        if shape is not None:
            found[name] = shape
    names = list(found)
    for name in names[1:]:
        if found[name] != found[names[0]]:
            raise ValueError(f"{names[0]!r} and {name!r} ask for two shapes: keep one")
    left = {name: value for name, value in params.items() if name not in _FIELDS}
    return (found[names[0]] if names else None), left


def asks_for_shape(params: Mapping[str, Any]) -> bool:
    """Whether a row's parameters ask for a shape, be it right or wrong."""
    try:
        return own_shape(dict(params))[0] is not None
    except ValueError:
        return True


def _empty(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def without_nulls_inside(value: Any) -> Any:
    """The value without the fields that are null, at every depth.

    A Parquet struct has every field in every row. `const: null` of a schema stays.
    """
    if isinstance(value, Mapping):
        return {
            name: without_nulls_inside(one)
            for name, one in value.items()
            if one is not None or name == "const"
        }
    return (
        [without_nulls_inside(one) for one in value] if isinstance(value, list | tuple) else value
    )


def _response_format(value: Any) -> Shape | None:
    if not isinstance(value, dict):
        raise ValueError(f"{shortened(value)} is no object")  # noqa: TRY004  (bad data)
    kind = value.get("type")
    if kind == "text":
        return None
    if kind not in ("json_object", "json_schema"):
        raise ValueError(
            f"its type {shortened(kind)} is none of 'text', 'json_object' and 'json_schema'"
        )
    inner = value.get(kind)
    body = inner if isinstance(inner, dict) else value
    if "schema" in body:
        return {"schema": _schema(body["schema"])}
    if kind == "json_object":
        return {"schema": ANY_OBJECT}
    raise ValueError("it has no `json_schema` with a `schema`")


def _structured(value: Any) -> Shape | None:
    if not isinstance(value, dict):
        raise ValueError(f"{shortened(value)} is no object")  # noqa: TRY004  (bad data)
    given = {
        name: one
        for name, one in value.items()
        if name not in _BESIDE and not name.startswith("_") and not _empty(one)
    }
    if unknown := sorted(given.keys() - _KINDS.keys()):
        raise ValueError(
            f"{unknown[0]!r} is none of {', '.join(map(repr, _KINDS))}: an answer of another kind "
            "cannot be checked"
        )
    if len(given) > 1:
        first, second, *_ = given
        raise ValueError(f"{first!r} and {second!r} are two shapes: keep one")
    for name, one in given.items():
        return _KINDS[name](one)
    return None


def _json(value: Any) -> Shape:
    return {"schema": _schema(value)}


def _schema(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise ValueError(f"the schema is not valid JSON: {err}") from None
    if not isinstance(value, dict):
        raise ValueError(f"the schema {shortened(value)} is no object")  # noqa: TRY004  (bad data)
    return value


def _json_object(value: Any) -> Shape:
    if value is not True:
        raise ValueError(f"json_object is {shortened(value)}, not true")
    return {"schema": ANY_OBJECT}


def _choice(value: Any) -> Shape:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError(f"{shortened(value)} is no list of labels, which are texts")
    return {"choice": list(dict.fromkeys(value))}


def _text(name: str) -> Callable[[Any], Shape]:
    def read(value: Any) -> Shape:
        if not isinstance(value, str):
            raise ValueError(f"{shortened(value)} is no text")  # noqa: TRY004  (bad data)
        return {name: value}

    return read


_KINDS: dict[str, Callable[[Any], Shape]] = {
    "json": _json,
    "json_object": _json_object,
    "choice": _choice,
    "regex": _text("regex"),
    "grammar": _text("grammar"),
}
_FIELDS: dict[str, Callable[[Any], Shape | None]] = {
    "response_format": _response_format,
    "structured_outputs": _structured,
    "guided_json": _json,
    "guided_choice": _choice,
    "guided_regex": _text("regex"),
    "guided_grammar": _text("grammar"),
    "guided_json_object": _json_object,
}
SHAPE_FIELDS = tuple(_FIELDS)
