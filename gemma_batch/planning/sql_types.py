"""SQL types: the types of columns as DuckDB can read them (driver, laptop).

DuckDB has no half floats and no decimals of more than 38 digits, and ends with an error of its own
when it is given one. In a `when`, such values are floats of 32 and 64 bits.
"""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types


def for_duckdb(table: pa.Table) -> pa.Table:
    """The table with types that DuckDB reads."""
    schema = pa.schema([field.with_type(sql_type(field.type)) for field in table.schema])
    return table if schema == table.schema else table.cast(schema)


def sql_type(kind: pa.DataType) -> pa.DataType:
    """The type for a column of type `kind`; the same one where DuckDB reads it."""
    if types.is_float16(kind):
        return pa.float32()
    if types.is_decimal256(kind):
        return pa.float64()
    if types.is_struct(kind):
        return pa.struct([field.with_type(sql_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(sql_type(kind.key_type), sql_type(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(sql_type(kind.value_type)), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        make = pa.list_ if types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(sql_type(kind.value_type)))
    return kind
