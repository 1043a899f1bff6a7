"""Widening: one type for a column whose type differs from file to file (driver, laptop).

By Arrow's rules, where no value changes: whole numbers of several sizes, whole numbers and floats,
dates and timestamps, decimals, coarse and fine times, lists and structs of these. A text column
takes other types only when `input.schema` says so.
"""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

UNITS = ("s", "ms", "us", "ns")
# Of whole numbers with so many bits: digits in decimal.
DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}


def wider_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds the values of both types; None when there is no such type.

    The values of a row are checked when they are kept: a whole number that a float64 cannot hold
    fails its row.
    """
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    for rule in (_numbers, _decimals, _times, _texts, _nested):
        if (found := rule(one, other) or rule(other, one)) is not None:
            return found
    return None


def _numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if types.is_floating(one) and types.is_floating(other):
        return one if one.bit_width >= other.bit_width else other
    if types.is_floating(one) and types.is_integer(other):
        return pa.float64()
    if not (types.is_integer(one) and types.is_integer(other)):
        return None
    signed = types.is_signed_integer(one), types.is_signed_integer(other)
    if signed[0] == signed[1]:
        return one if one.bit_width >= other.bit_width else other
    unsigned = other if signed[0] else one
    if unsigned.bit_width == 64:
        return pa.decimal128(20, 0)  # no whole number of 64 bits holds both
    bits = max(one.bit_width, other.bit_width, unsigned.bit_width * 2)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not types.is_decimal(one):
        return None
    if types.is_integer(other):
        digits, scale = DIGITS[other.bit_width], 0
    elif types.is_decimal(other):
        digits, scale = other.precision - other.scale, other.scale
    else:
        return None
    most = max(one.scale, scale)
    precision = max(one.precision - one.scale, digits) + most
    if precision > 76:
        return None
    return pa.decimal128(precision, most) if precision <= 38 else pa.decimal256(precision, most)


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if types.is_date(one) and types.is_date(other):
        return pa.date32()
    if types.is_timestamp(one) and types.is_date(other):
        return one if one.tz is None else None
    if types.is_timestamp(one) and types.is_timestamp(other):
        return pa.timestamp(_finer(one, other), one.tz) if one.tz == other.tz else None
    if types.is_duration(one) and types.is_duration(other):
        return pa.duration(_finer(one, other))
    if types.is_time(one) and types.is_time(other):
        unit = _finer(one, other)
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return UNITS[max(UNITS.index(one.unit), UNITS.index(other.unit))]


def _texts(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if types.is_large_string(one) and types.is_string(other):
        return one
    if types.is_large_binary(one) and _is_binary(other):
        return one
    return pa.binary() if _is_binary(one) and _is_binary(other) else None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_fixed_size_binary(kind))


def _nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if types.is_list(one) and types.is_list(other):
        inner = wider_type(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_map(one) and types.is_map(other):
        key = wider_type(one.key_type, other.key_type)
        item = wider_type(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if not (types.is_struct(one) and types.is_struct(other)):
        return None
    fields = {field.name: field.type for field in one}
    for field in other:
        found = wider_type(fields.get(field.name, pa.null()), field.type)
        if found is None:
            return None
        fields[field.name] = found
    return pa.struct(list(fields.items()))
