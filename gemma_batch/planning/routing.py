"""Routing: the route of each row, by the `when` expressions (driver, laptop, submitter).

DuckDB evaluates the expressions, without access to files, network or extensions. It sees an
in-memory table with only the columns that the expressions name (see `references.py`). The first
matching route takes the row. An expression that is null or fails on a row does not match this row.
Nor does one about a column in which the row has a value that the column's type cannot hold.
The route of a row depends on the row alone, so every plan of the same input finds the same routes.
Functions that depend on time or chance would break this rule, so the plan refuses such functions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from gemma_batch.errors import SpecError
from gemma_batch.planning.references import (
    Reference,
    column_in_quotes,
    distinct_names,
    references,
    rewritten,
)
from gemma_batch.planning.sql_types import for_duckdb
from gemma_batch.rows import Row
from gemma_batch.spec import Route
from gemma_batch.storage.keep import keep_column

# Functions whose value depends on more than the row. DuckDB's list of functions marks some of them
# as stable, has others without a mark, and lacks the rest.
UNSTABLE = {
    "current_date", "current_time", "current_timestamp", "current_localtime",
    "current_localtimestamp", "localtime", "localtimestamp", "getenv", "current_setting", "user",
    "current_user", "session_user", "current_role", "current_catalog", "ago", "pg_sleep",
}  # fmt: skip


LARGE = range(-(2**64), 2**64)
PREFIX = "SELECT "
TABLE = "the rows of the job"  # no column has this name, so that `rows.x` is a field of a column


class Router:
    """Assigns rows to routes by name. Raises `SpecError` for an expression that cannot work.

    `columns` are the names of the columns that the expressions use.
    """

    def __init__(self, routes: Sequence[Route], schema: pa.Schema) -> None:
        self.names = [route.name for route in routes]
        self._con: Any = None
        conditional = [route for route in routes if route.when is not None]
        if conditional:
            self._con = connect()
        found = [self._parse(route, schema) for route in conditional]
        self._named = [{reference.column for reference in one} for one in found]
        self.columns = {name for one in self._named for name in one}
        self.types = {name: schema.field(name).type for name in sorted(self.columns)}
        self._columns = distinct_names(
            [name for name in schema.names if name in self.columns], schema.names
        )
        self._schema = pa.schema(
            [schema.field(name).with_name(new) for name, new in self._columns.items()]
        )
        whens = [
            rewritten(str(route.when), references, self._columns, f"routes.{route.name}.when")
            for route, references in zip(conditional, found, strict=True)
        ]
        self._matches = [f"coalesce(try(({when}\n)), false)" for when in whens]
        self._cases = "".join(
            f" WHEN {match} THEN {index}" for index, match in enumerate(self._matches)
        )
        self._default = len(routes) - 1
        if conditional:
            self._bind(conditional, whens, schema)

    def _parse(self, route: Route, schema: pa.Schema) -> list[Reference]:
        where = f"routes.{route.name}.when"
        tree = parsed(self._con, str(route.when), where)
        for part in _walk(tree):
            if function := _changing(part, schema):
                raise SpecError(
                    f"{where}: {route.when!r} calls {function!r}, whose answer changes from one "
                    "call to the next, so that a start again could choose another route: use "
                    "functions of the row's columns only"
                )
        found = references(tree, schema, len(PREFIX), f"{where}: {route.when!r}")
        text = None if found else column_in_quotes(tree, schema)
        if text is not None:
            raise SpecError(
                f"{where}: {route.when!r} names no column: {text!r} in single quotes is a text, "
                "and in double quotes the column"
            )
        return found

    def _bind(self, routes: Sequence[Route], whens: Sequence[str], schema: pa.Schema) -> None:
        import duckdb

        self._con.register(TABLE, for_duckdb(self._table([])))  # the same columns as in `assign`
        for route, when, named in zip(routes, whens, self._named, strict=True):
            query = f'SELECT coalesce(try(({when}\n)), false)::BOOLEAN FROM "{TABLE}"'
            try:
                self._con.execute(query).fetchall()
            except duckdb.Error as err:
                first = first_sentence(err)
                raise SpecError(
                    f"routes.{route.name}.when: {route.when!r} cannot be evaluated on this input: "
                    f"{first} (columns: {', '.join(schema.names)})"
                    f"{_texts(named, schema, first)}"
                ) from None

    def assign(self, rows: Sequence[Row]) -> list[str]:
        """The name of each row's route. A row that could not be read takes the last route."""
        if self._con is None:
            return [self.names[self._default]] * len(rows)
        readable = [i for i, row in enumerate(rows) if row.values is not None]
        answer = [self.names[self._default]] * len(rows)
        if readable:
            values = [rows[i].values or {} for i in readable]
            table = self._table(values)
            self._con.register(TABLE, for_duckdb(table))
            query = f'SELECT CASE{self._cases} ELSE {self._default} END FROM "{TABLE}"'
            for i, (index,) in zip(readable, self._con.execute(query).fetchall(), strict=True):
                answer[i] = self.names[index]
            if unfit := self._unfit(values, table):
                query = f'SELECT {", ".join(self._matches)} FROM "{TABLE}"'
                matches = self._con.execute(query).fetchall()
                for place, columns in unfit.items():
                    answer[readable[place]] = self._without(columns, matches[place])
        return answer

    def _unfit(self, values: Sequence[dict[str, Any]], table: pa.Table) -> dict[int, set[str]]:
        """The places of rows with values that became null for their type: place -> the columns."""
        found: dict[int, set[str]] = {}
        for name, column in zip(self._columns, table.columns, strict=False):
            given = [row.get(name) is not None for row in values] if column.null_count else []
            if sum(given) > len(column) - column.null_count:
                for place, valid in enumerate(column.is_valid().to_pylist()):
                    if given[place] and not valid:
                        found.setdefault(place, set()).add(name)
        return found

    def _without(self, columns: set[str], matches: Sequence[bool]) -> str:
        """The first matching route whose expression names none of the columns."""
        for index, (match, named) in enumerate(zip(matches, self._named, strict=True)):
            if match and not named & columns:
                return self.names[index]
        return self.names[self._default]

    def _table(self, values: Sequence[dict[str, Any]]) -> pa.Table:
        if not self._schema.names:
            return pa.table({"_": pa.nulls(len(values), pa.bool_())})
        return pa.table(
            [
                _column([row.get(name) for row in values], field.type)
                for name, field in zip(self._columns, self._schema, strict=True)
            ],
            schema=self._schema,
        )


@functools.cache
def _unstable() -> frozenset[str]:
    import duckdb

    query = "SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
    found = duckdb.connect(":memory:").execute(query).fetchall()
    return frozenset(name.lower() for (name,) in found) | UNSTABLE


def _changing(part: dict[str, Any], schema: pa.Schema) -> str:
    """The name of the function that `part` calls, if its value depends on more than the row.

    Otherwise an empty string. `part` is a node of a parsed expression.
    """
    if part.get("class") == "COLUMN_REF":
        # `current_date` has no brackets and parses as a column name; a real column of that name
        # wins.
        name = str(part["column_names"][-1]).lower()
        known = name in {column.lower() for column in schema.names}
        return name if name in _unstable() and not known else ""
    name = str(part.get("function_name", "")).lower()
    from_today = name == "age" and len(part.get("arguments") or part.get("children") or ()) < 2
    return name if name in _unstable() or from_today else ""


def connect() -> Any:
    """A connection to DuckDB without access to files, network or extensions."""
    import duckdb

    connection = duckdb.connect(":memory:")
    for setting in (
        "temp_directory=''",
        "enable_external_access=false",
        "autoinstall_known_extensions=false",
        "autoload_known_extensions=false",
        "python_enable_replacements=false",
        "threads=1",
        "memory_limit='1GB'",
        "lock_configuration=true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def parsed(connection: Any, text: str, where: str) -> list[dict[str, Any]]:
    """The nodes of one SQL expression over the columns of a row.

    Raises `SpecError`, which begins with `where`, for a text that is something else.
    """
    query = "SELECT json_serialize_sql(?)"
    ((answer,),) = connection.execute(query, [PREFIX + text]).fetchall()
    tree = json.loads(answer)
    if tree.get("error"):
        raise SpecError(
            f"{where}: {text!r} is not valid SQL: {tree.get('error_message')} (a column "
            "name with spaces, or one that is a word of SQL, stands in double quotes)"
        )
    statements = tree["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = (
        node.get("type") == "SELECT_NODE"
        and node["from_table"]["type"] == "EMPTY"
        and len(node["select_list"]) == 1
        and not any(node.get(k) for k in ("where_clause", "having", "qualify", "modifiers"))
    )
    if not plain:
        raise SpecError(f"{where}: {text!r} must be one SQL expression, nothing more")
    for part in _walk(node["select_list"][0]):
        if part.get("class") == "SUBQUERY":
            raise SpecError(f"{where}: {text!r} has a subquery; only the row is at hand")
        if part.get("class") == "STAR":
            raise SpecError(f"{where}: {text!r} must name the columns it is about")
    return list(node["select_list"])


def first_sentence(error: Exception) -> str:
    """What DuckDB says of an error, without the lines that show the place in the query."""
    return str(error).split("\n\n")[0].split("\nLINE")[0].replace("\n", " ")


def _texts(named: set[str], schema: pa.Schema, error: str) -> str:
    """A sentence about the columns of an expression that are text, as far as the files tell.

    "" when DuckDB's error is about something else.
    """
    texts = sorted(name for name in named if pa.types.is_string(schema.field(name).type))
    fields = "not a struct" in error
    if not texts or not (fields or "VARCHAR" in error):
        return ""
    name = texts[0] if texts[0].isidentifier() else json.dumps(texts[0], ensure_ascii=False)
    kind = "'struct<field: int64>'" if fields else "int64"
    are = "is text" if len(texts) == 1 else "are text"
    return (
        f". By the rows that were looked at, {' and '.join(map(repr, texts))} {are}: declare "
        f"another type, such as `input.schema: {{{name}: {kind}}}`"
    )


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    # In JSON lines, a value may have another type than its column. In a column of text, such a
    # value becomes JSON text. In any other column, a value that is not of the type becomes null,
    # and `Router._unfit` finds it.
    if pa.types.is_floating(kind):  # SQL compares a large whole number as a float too
        values = [float(v) if type(v) is int and v in LARGE else v for v in values]
    return keep_column(values, kind)


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)
