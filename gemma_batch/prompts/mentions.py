"""Mentions: the columns that a template uses, found without rendering it (every process).

A template names a column plainly, `{{ body }}`, or by `row`, which holds all columns of the row:
`{{ row['Review Text'] }}`. Some names mean something else in Jinja: `self`, `loop` in a loop,
`kwargs` in a macro, `true`. `self` is turned into the column, because Jinja's own object is of no
use in a prompt. The other names stay Jinja's own, and `Names` lists them, so that the plan can
refuse a template when the input has such a column.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

from jinja2 import Environment, meta, nodes
from jinja2.visitor import NodeTransformer

from gemma_batch.errors import SpecError

ROW = "row"
OWN_ROW = "_gemma_batch_row"  # the same object, for a template that uses `row` for something else
METHODS = {"get", "items", "keys", "values"}  # of `row`, when they are called
LOOP = {
    "changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem",
    "previtem", "revindex", "revindex0",
}  # fmt: skip
IN_MACRO = {"caller", "kwargs", "varargs"}
JINJA_WORDS = {
    "and", "block", "elif", "else", "endfor", "false", "if", "in", "is", "loop", "namespace",
    "none", "not", "or", "range", "recursive", "row", "self", "super", "true", *IN_MACRO,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """The names in one template.

    `plain` are columns that are named as variables, `columns` all columns that are named. `fields`
    are the columns that are named by `row`. `whole` says that the template needs every column of
    the row, because it uses `row` as a value, and `row` says that it uses `row` at all. `taken`
    are names that mean something of Jinja's own: name -> what they mean.
    """

    plain: frozenset[str]
    fields: frozenset[str]
    whole: bool
    row: bool
    taken: dict[str, str]

    @property
    def columns(self) -> set[str]:
        """Every column that the template names."""
        return {*self.plain, *self.fields}


def mention(column: str) -> str:
    """How a template names a column: `{{ body }}`, or `{{ row['Review Text'] }}`."""
    usual = column.isidentifier() and unicodedata.normalize("NFKC", column) == column
    plain = usual and column.lower() not in JINJA_WORDS
    return f"{{{{ {column if plain else subscript(column)} }}}}"


def subscript(column: str) -> str:
    """The column named by `row`, such as `row['Review Text']`, in one line."""
    text = column.replace("\\", "\\\\").replace("'", "\\'")
    return f"{ROW}['{''.join(c if c.isprintable() else _escaped(c) for c in text)}']"


def _escaped(char: str) -> str:
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else json.dumps(char)[1:-1]


def names_of(tree: nodes.Template, env: Environment, functions: set[str], field: str) -> Names:
    """The names in a parsed template; turns `self` into the column of that name.

    `functions` are the functions that a template can call. Raises `SpecError`, which names `field`,
    when one name stands for two things.
    """
    _ColumnSelf(tree).visit(tree)
    found = list(tree.find_all(nodes.Name))
    called = {id(call.node) for call in tree.find_all(nodes.Call)}
    read = {node.name for node in found if node.ctx == "load" and id(node) not in called}
    written = {node.name for node in found if node.ctx != "load"}
    calls = {node.name for node in found if id(node) in called}
    free = meta.find_undeclared_variables(tree) - {OWN_ROW}
    _tell_apart({node.name for node in found}, field)
    if ROW in free and ROW in written:
        raise SpecError(
            f"{field}: `row` is a name of the template here and all columns of the row there: "
            "give the template's variable another name"
        )
    # A column may have the name of a function, such as `range`. The name means the column where
    # the template does not call it.
    columns = (read - written) & functions
    for name in sorted(columns & calls):
        raise SpecError(
            f"{field}: {name!r} is called as a function, and used as a column: write "
            f"{subscript(name)} for the column"
        )
    fields, whole = set[str](), False
    for node, parents in _nodes(tree):
        if isinstance(node, nodes.Name) and node.name in (
            {ROW, OWN_ROW} if ROW in free else {OWN_ROW}
        ):
            column = _field(node, parents, field)
            fields |= set() if column is None else {column}
            whole |= column is None
    return Names(
        plain=frozenset((free | columns) - {ROW}),
        fields=frozenset(fields),
        whole=whole,
        row=ROW in free,
        taken=_taken(tree),
    )


def _nodes(
    node: nodes.Node, parents: tuple[nodes.Node, ...] = ()
) -> Iterator[tuple[nodes.Node, tuple[nodes.Node, ...]]]:
    """Every node below, with the nodes above it: the nearest last."""
    for child in node.iter_child_nodes():
        yield child, (*parents, node)
        yield from _nodes(child, (*parents, node))


def _field(row: nodes.Name, parents: tuple[nodes.Node, ...], field: str) -> str | None:
    """The column that is read from `row` here; None when `row` is used as a value."""
    user = parents[-1]
    if isinstance(user, nodes.Getitem) and user.node is row and isinstance(user.arg, nodes.Const):
        if not isinstance(user.arg.value, str):
            raise SpecError(
                f"{field}, line {user.lineno}: row[{user.arg.value!r}]: a column is named by a "
                "text in quotes"
            )
        return user.arg.value
    if not isinstance(user, nodes.Getattr):
        return None
    call = parents[-2]
    if not (isinstance(call, nodes.Call) and call.node is user and user.attr in METHODS):
        return user.attr
    first = call.args[0] if call.args else None
    if user.attr == "get" and isinstance(first, nodes.Const) and isinstance(first.value, str):
        return first.value
    return None


def _taken(tree: nodes.Template) -> dict[str, str]:
    found: dict[str, str] = {}
    for node, parents in _nodes(tree):
        if isinstance(parents[-1], nodes.Output) and _is_word(node):
            # The parser makes the same constant of `true` and `True`.
            for name in (str(node.value), str(node.value).lower()):
                found[name] = "is a constant of Jinja"
        if not isinstance(node, nodes.Name):
            continue
        if node.name == "loop" and _in_loop(node, parents) and not _of_loop(node, parents[-1]):
            found["loop"] = "means Jinja's loop inside {% for %}"
        if node.name in IN_MACRO and any(isinstance(one, nodes.Macro) for one in parents):
            found[node.name] = "means an argument inside {% macro %}"
        if node.name == "super" and any(isinstance(one, nodes.Block) for one in parents):
            found["super"] = "means Jinja's function inside {% block %}"
    return found


def _is_word(node: nodes.Node) -> TypeGuard[nodes.Const]:
    return isinstance(node, nodes.Const) and (node.value is None or isinstance(node.value, bool))


def _in_loop(node: nodes.Node, parents: tuple[nodes.Node, ...]) -> bool:
    path = (*parents, node)
    return any(
        isinstance(one, nodes.For) and any(below is part for part in one.body)
        for one, below in itertools.pairwise(path)
    )


def _of_loop(name: nodes.Name, user: nodes.Node) -> bool:
    if isinstance(user, nodes.Getattr):
        return user.attr in LOOP
    return isinstance(user, nodes.Call) and user.node is name  # a loop that is recursive


class _ColumnSelf(NodeTransformer):
    """Makes `self` the column of that name, except in `self.title()` of a block `title`."""

    def __init__(self, tree: nodes.Template) -> None:
        self._blocks = {block.name for block in tree.find_all(nodes.Block)}

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        own = isinstance(node.node, nodes.Name) and node.node.name == "self"
        return node if own and node.attr in self._blocks else self.generic_visit(node)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        if node.name != "self" or node.ctx != "load":
            return node
        row = nodes.Name(OWN_ROW, "load", lineno=node.lineno, environment=node.environment)
        name = nodes.Const("self", lineno=node.lineno, environment=node.environment)
        return nodes.Getitem(row, name, "load", lineno=node.lineno, environment=node.environment)


def _tell_apart(names: set[str], field: str) -> None:
    # Jinja makes Python variables of names, and Python takes such names for the same variable.
    same: dict[str, str] = {}
    for name in sorted(names):
        other = same.setdefault(unicodedata.normalize("NFKC", name), name)
        if other != name:
            raise SpecError(
                f"{field}: Jinja cannot tell the names {other!r} and {name!r} apart, which Unicode "
                f"writes in two ways: write {subscript(other)} and {subscript(name)}"
            )
