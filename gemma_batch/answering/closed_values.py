"""Closed values: the places in a JSON text of values that a schema lists (driver and GPU actor).

A value is closed where the schema allows only some values: an `enum`, a `const` or a boolean, with
or without null. This module knows no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MOST = 200  # schemas that are looked at for one value: a reference may lead back to itself
_BLANKS = " \t\n\r"
_SCAN = json.JSONDecoder(strict=False).raw_decode


def has_closed(schema: Mapping[str, Any]) -> bool:
    """Whether some value in texts of this schema is closed."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            if _is_closed(node):
                return True
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return False


def closed_spans(schema: Mapping[str, Any], text: str) -> list[tuple[str, int, int]]:
    """Path, begin and end, in characters, of each closed value in `text`; [] for text that is not
    JSON.

    The path is of names and numbers from 0, such as `items[0].color`; "" is the whole text.
    """
    try:
        return list(_walk(schema, [schema], "", text, _skip(text, 0)))
    except (ValueError, IndexError, RecursionError):
        return []


def _walk(
    root: Mapping[str, Any], nodes: list[Any], path: str, text: str, at: int
) -> Iterator[tuple[str, int, int]]:
    """The closed values in the value that begins at `at`; `nodes` are the schemas that allow it."""
    kinds = _expanded(root, nodes)
    _, end = _SCAN(text, at)
    if kinds and all(_is_closed(node) or node.get("type") == "null" for node in kinds):
        yield path, at, end
    elif text[at] == "{":
        at = _skip(text, at + 1)
        while text[at] != "}":
            name, colon = _SCAN(text, at)
            at = _skip(text, _skip(text, colon) + 1)
            inner = [kind.get("properties", {}).get(name) for kind in kinds]
            yield from _walk(root, inner, f"{path}.{name}".lstrip("."), text, at)
            at = _after(text, _SCAN(text, at)[1])
    elif text[at] == "[":
        at, number = _skip(text, at + 1), 0
        while text[at] != "]":
            inner = [kind.get("items") for kind in kinds]
            yield from _walk(root, inner, f"{path}[{number}]", text, at)
            at, number = _after(text, _SCAN(text, at)[1]), number + 1


def _expanded(root: Mapping[str, Any], nodes: list[Any]) -> list[Mapping[str, Any]]:
    """The schemas without references and without lists of alternatives."""
    waiting, found = list(nodes), []
    for _ in range(MOST):
        if not waiting:
            break
        node = waiting.pop(0)
        if not isinstance(node, Mapping):
            continue
        if isinstance(reference := node.get("$ref"), str):
            waiting.append(_referenced(root, reference))
        alternatives = [one for name in ("anyOf", "oneOf", "allOf") for one in node.get(name, ())]
        waiting += alternatives
        if "$ref" not in node and not alternatives:
            found.append(node)
    return found


def _referenced(root: Mapping[str, Any], reference: str) -> Any:
    node: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        node = node.get(name.replace("~1", "/").replace("~0", "~")) if node else None
    return node


def _is_closed(node: Mapping[str, Any]) -> bool:
    kinds = node.get("type")
    only = {kinds} if isinstance(kinds, str) else set(kinds or ()) - {"null"}
    return isinstance(node.get("enum"), list) or "const" in node or only == {"boolean"}


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _BLANKS:
        at += 1
    return at


def _after(text: str, at: int) -> int:
    """The place behind the comma after a value, or of the bracket that closes the list."""
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at
