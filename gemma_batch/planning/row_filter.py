"""Row filter: the rows of a table that an SQL expression picks (laptop, driver).

It is evaluated as the `when` of a route: by DuckDB, without access to files or network, over a
table with only the columns that the expression names. An expression that is null or fails on a row
does not pick this row.
"""

from __future__ import annotations

import threading

import pyarrow as pa

from gemma_batch.errors import SpecError
from gemma_batch.planning.references import distinct_names, references, rewritten
from gemma_batch.planning.routing import PREFIX, connect, first_sentence, parsed
from gemma_batch.planning.sql_types import for_duckdb

TABLE, PLACE = "the rows", "the place of the row"


class RowFilter:
    """Picks rows by the expression `text` over tables with the columns of `schema`.

    `where` names the expression in errors, such as "--where". `columns` are the columns that the
    expression names. Threads may share it. Raises `SpecError` for an expression that cannot work.
    """

    def __init__(self, text: str, schema: pa.Schema, where: str) -> None:
        import duckdb

        named = f"(columns: {', '.join(schema.names)})"
        self._connection, self._lock = connect(), threading.Lock()
        try:
            tree = parsed(self._connection, text, where)
            found = references(tree, schema, len(PREFIX), f"{where}: {text!r}")
            used = {one.column for one in found}
            self._names = distinct_names([n for n in schema.names if n in used], schema.names)
            expression = rewritten(text, found, self._names, where)
        except SpecError as err:
            raise SpecError(f"{err} {named}") from None
        self._query = (
            f'SELECT "{PLACE}" FROM "{TABLE}" WHERE coalesce(try(({expression}\n)), false)::BOOLEAN'
        )
        try:
            self.places(schema.empty_table())
        except duckdb.Error as err:
            raise SpecError(
                f"{where}: {text!r} cannot be evaluated: {first_sentence(err)} {named}"
            ) from None

    @property
    def columns(self) -> list[str]:
        """The columns that the expression names, in the order of the schema."""
        return list(self._names)

    def places(self, table: pa.Table) -> list[int]:
        """The places (from 0) of the picked rows, ascending. `table` has at least `columns`."""
        mine = table.select(self.columns).rename_columns(list(self._names.values()))
        mine = for_duckdb(mine.append_column(PLACE, pa.array(range(len(table)), pa.int64())))
        with self._lock:
            self._connection.register(TABLE, mine)
            return sorted(place for (place,) in self._connection.execute(self._query).fetchall())
