"""References: the columns that a SQL expression names, exactly as it writes them (driver, laptop).

DuckDB takes `Text` and `text` for the same name, and finds the first such column of a table. Here a
name means the column that is written exactly so, otherwise the only column that differs but for
case. When an expression could mean several columns, it is refused. When a job names two such
columns, each gets a name that differs by more than case, and the expression is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gemma_batch.errors import SpecError


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that an expression names: `written` stands at byte `start` of the expression."""

    column: str
    written: str
    start: int


def references(tree: Any, schema: pa.Schema, prefix: int, where: str) -> list[Reference]:
    """The columns in a parsed expression that stands behind `prefix` bytes of SQL.

    A name that no column has is left out. Raises `SpecError`, which begins with `where`, for a name
    that means several columns, or several fields of a column.
    """
    found = []
    for part, local in _named(tree, frozenset()):
        first, *fields = _path(part)
        if folded(first) in local:
            continue
        column = _match(first, schema.names, f"{where} names {first!r}, which may be the column")
        if column is None:
            continue
        _check_fields(schema.field(column).type, fields, f"{where} reads {column!r}")
        found.append(Reference(column, first, part.get("query_location", -1) - prefix))
    return found


def folded(name: str) -> str:
    """The name as DuckDB compares it: without regard to the case of ASCII letters."""
    return "".join(char.lower() if char.isascii() else char for char in name)


def _path(node: dict[str, Any]) -> list[str]:
    """The names of a column and of fields in it; [] for a node that names no column."""
    if node.get("class") == "FUNCTION":  # `body.lower()` has the column in place of a schema
        return [name for name in (node.get("catalog"), node.get("schema")) if name]
    return list(node["column_names"]) if node.get("class") == "COLUMN_REF" else []


def _named(node: Any, local: frozenset[str]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Each column reference in a tree, with the names that a `lambda x: ...` around it declares.

    `x -> ...` declares nothing here, because the same sign reads a field of JSON.
    """
    if isinstance(node, list):
        for one in node:
            yield from _named(one, local)
    elif isinstance(node, dict):
        if _path(node):
            yield node, local
        declared = node.get("class") == "LAMBDA" and node.get("syntax_type") == "LAMBDA_KEYWORD"
        if declared:
            names = [_path(part)[0] for part, _ in _named(node["lhs"], frozenset())]
            yield from _named(node["expr"], local | {folded(name) for name in names})
        else:
            for value in node.values():
                yield from _named(value, local)


def _match(written: str, names: Iterable[str], what: str) -> str | None:
    same = [name for name in names if folded(name) == folded(written)]
    if written in same:
        return written
    if len(same) > 1:
        raise SpecError(
            f"{what} {' or '.join(map(repr, same))}: write one of them, in double quotes"
        )
    return same[0] if same else None


def _check_fields(kind: pa.DataType, fields: Sequence[str], what: str) -> None:
    """Raise `SpecError` when a struct has two fields that SQL takes for one."""
    seen: dict[str, str] = {}
    for inner in [kind.field(i) for i in range(kind.num_fields)]:
        if pa.types.is_struct(kind):
            other = seen.setdefault(folded(inner.name), inner.name)
            if other != inner.name:
                raise SpecError(
                    f"{what}, whose fields {other!r} and {inner.name!r} SQL cannot tell apart: "
                    "decide on another column"
                )
        _check_fields(inner.type, fields, what)


def distinct_names(columns: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """A name for each column that SQL can tell from the others; its own name where possible."""
    columns = list(columns)
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.casefold(), []).append(column)
    used = {name.casefold() for name in taken}
    names = {}
    for group in groups.values():
        for number, column in enumerate(group, 1):
            name = column
            while len(group) > 1 and name.casefold() in used:
                name = f"{name} #{number}"
            used.add(name.casefold())
            names[column] = name
    return names


def rewritten(
    expression: str, found: Sequence[Reference], names: dict[str, str], where: str
) -> str:
    """The expression with `names` for its columns. Raises `SpecError` when a place is not clear."""
    data = expression.encode()
    for reference in sorted(found, key=lambda one: -one.start):
        name = names[reference.column]
        if name == reference.column:
            continue
        rest = data[reference.start :] if reference.start >= 0 else b""
        forms = (_quoted(reference.written).encode(), reference.written.encode())
        old = next((form for form in forms if rest.startswith(form)), None)
        if old is None:
            raise SpecError(
                f"{where} names columns that differ only in case, such as {reference.column!r}: "
                "write each in double quotes"
            )
        data = data[: reference.start] + _quoted(name).encode() + rest[len(old) :]
    return data.decode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def column_in_quotes(tree: Any, schema: pa.Schema) -> str | None:
    """A text in single quotes that is the name of a column; None when there is none."""
    if isinstance(tree, list):
        return next(filter(None, (column_in_quotes(one, schema) for one in tree)), None)
    if not isinstance(tree, dict):
        return None
    if tree.get("class") == "CONSTANT":
        # "literal" in DuckDB 2, "value" in older versions
        held = tree.get("literal") or tree.get("value") or {}
        text = held.get("text", held.get("value"))
        return text if text in schema.names else None
    return column_in_quotes(list(tree.values()), schema)
