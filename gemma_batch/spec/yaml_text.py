"""A spec as text: YAML, `--set` overrides, and pydantic's findings put into sentences.

It knows how a spec is written, not what one may hold; that is `spec`.
"""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Iterable
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from gemma_batch.errors import SpecError

MAX_CHARS = 2**20  # PyYAML reads about this much in ten seconds
MAX_NODES = 100_000
MAX_DEPTH = 50  # whoever handles a value further on recurses
UNFINISHED = 0, 0
MAX_DIGITS = 100  # Python refuses to print a number of thousands
BYTES_TAG = "tag:yaml.org,2002:binary"  # would not survive the manifest, which is JSON
PLAIN_TAGS = {
    *yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value",
} - {BYTES_TAG}  # fmt: skip
# Besides its own, PyYAML lets through what Python says of a number or a date that is none.
NOT_YAML = (
    yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
)  # fmt: skip


class _Shown(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 1000 else "a huge number"


_SHOWN = _Shown()  # of a wrong value; what is inside it stays out of messages
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 1, 80, 80


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """Safe-load a YAML mapping. Raises `SpecError` with line and column."""
    try:
        data = _load(text, where)
    except NOT_YAML as err:
        mark = getattr(err, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(err, "problem", None) or str(err).replace("\n", " ")
        raise SpecError(f"{where!r} is not valid YAML{place}: {problem}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{where!r} must hold a mapping of fields, not {type(data).__name__}")
    return data


def _load(text: str, where: str) -> Any:
    """`yaml.safe_load`, but what the text can become is bounded. Raises `NOT_YAML`, `SpecError`."""
    if len(text) > MAX_CHARS:
        raise SpecError(f"{where!r} has {len(text):,} characters: write at most {MAX_CHARS:,}")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        size, depth = _expanded(node, {}, where)
        if size > MAX_NODES:
            raise SpecError(
                f"{where!r} holds more than {MAX_NODES:,} values once its aliases are filled in: "
                "write it without aliases (*name) of aliases"
            )
        if depth > MAX_DEPTH:
            raise SpecError(f"{where!r} nests values {depth} levels deep: {MAX_DEPTH} are allowed")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int]], where: str) -> tuple[int, int]:
    """How many values the node stands for, aliases filled in, and how deep they nest."""
    if node.tag.startswith("tag:") and node.tag not in PLAIN_TAGS:
        mark = node.start_mark
        raise SpecError(
            f"{where!r} is not valid YAML at line {mark.line + 1}, column {mark.column + 1}: "
            f"{node.tag!r} makes an object of it, only plain values are read"
        )
    if id(node) in known:
        if known[id(node)] == UNFINISHED:
            raise SpecError(f"{where!r} holds a value that contains itself, by an alias (*name)")
        return known[id(node)]
    known[id(node)] = UNFINISHED
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(node.value):,} digits")
    below = [_expanded(child, known, where) for child in children]
    size = 1 + sum(count for count, _ in below)
    known[id(node)] = found = size, 1 + max((depth for _, depth in below), default=0)
    return found


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=c` (value parsed as YAML; `routes.0.model=x` for lists) to a copy of `data`."""
    for override in overrides:
        path, found, raw = override.partition("=")
        where = f"--set {_SHOWN.repr(override)}"
        if not found or not path.strip():
            raise SpecError(f"{where} is not of the form field.subfield=value")
        keys = path.strip().split(".")
        if len(keys) > MAX_DEPTH:
            raise SpecError(f"{where} names {len(keys):,} fields in each other")
        try:
            value = _load(raw, where)
        except NOT_YAML:
            value = raw
        data = _with_value(data, keys, value, where)
    return data


def _with_value(node: Any, keys: list[str], value: Any, where: str) -> Any:
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not key.isdecimal() or len(key) > 9 or int(key) >= len(node):
            raise SpecError(f"{where}: {_SHOWN.repr(key)} is no index into {len(node)} entries")
        copy = list(node)
        copy[int(key)] = _with_value(node[int(key)], rest, value, where)
        return copy
    if node is not None and not isinstance(node, dict):
        shown = _SHOWN.repr(node)
        raise SpecError(f"{where}: {_SHOWN.repr(key)} is below {shown}, which has no fields")
    return {**(node or {}), key: _with_value((node or {}).get(key), rest, value, where)}


def sentences(err: pydantic.ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """One sentence per wrong field, however many branches of a union pydantic tried for it."""
    fields: dict[str, list[tuple[str, str]]] = {}
    for item in err.errors(include_url=False):
        loc = [x for x in item["loc"] if not _is_union_tag(x)]
        path = ".".join(x for x in (prefix, *map(str, loc)) if x) or "spec"
        kind = item["type"]
        if kind == "extra_forbidden":
            key, valid = str(loc.pop()), _fields_at(root, item["loc"][:-1])
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
            text = f"unknown key {key!r}; {hint}"
        elif kind == "missing":
            text = "is required"
        elif kind == "value_error":
            text = str(item["ctx"]["error"])
        elif kind == "model_type":
            text = f"must be a mapping of fields, not {_SHOWN.repr(item['input'])}"
        else:
            text = f"{item['msg'][0].lower()}{item['msg'][1:]}, not {_SHOWN.repr(item['input'])}"
        fields.setdefault(path, []).append((kind, text))
    precise = {"extra_forbidden", "missing", "value_error"}
    exact = [path for path, found in fields.items() if any(kind in precise for kind, _ in found)]
    sentences = []
    for path, found in fields.items():
        if path not in exact and any(x.startswith(f"{path}.") for x in exact):
            continue  # another branch of the union got further and says more
        texts = [text for kind, text in found if path not in exact or kind in precise]
        sentences.append(f"{path}: {' or '.join(dict.fromkeys(texts))}")
    return "; ".join(sentences)


def _is_union_tag(part: Any) -> bool:
    # pydantic names the union branch it tried in the location; people did not write that.
    return isinstance(part, str) and (
        part in {"str", "int", "float", "Replicas", "bool"}
        or part.startswith(("literal[", "constrained-", "tuple[", "dict[", "function-"))
    )


def _fields_at(root: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    node: Any = root
    for part in loc:
        if isinstance(part, int) or _is_union_tag(part):
            continue
        field = getattr(node, "model_fields", {}).get(part)
        node = _model_in(field.annotation) if field else None
        if node is None:
            return []
    return list(node.model_fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (
        typing.Union,
        types.UnionType,
        typing.Annotated,
        tuple,
        list,
    ):
        for inner in typing.get_args(annotation):
            if (found := _model_in(inner)) is not None:
                return found
    return None
