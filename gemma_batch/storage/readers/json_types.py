"""The Arrow types of JSON values: guessed from some rows, settled on all rows (driver, laptop).

A column has a type when each of its values has that type, or is null. Whole numbers and other
numbers together are float64, if no whole number would change. Any other mixture is text, which
takes every value as JSON. So are objects, whose keys may differ from row to row, and lists of
lists, of objects or of a mixture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

if TYPE_CHECKING:
    from gemma_batch.storage.readers.text import Line

INT64 = range(-(2**63), 2**63)
EXACT = 2**53  # every whole number up to this one is a float64
# Stands for int64 with a number above `EXACT`. No JSON value has this type otherwise.
WIDE = pa.uint64()
TEXT, INTEGER, NUMBER, NULL = pa.string(), pa.int64(), pa.float64(), pa.null()
SIMPLE = {type(None): NULL, bool: pa.bool_(), float: NUMBER, str: TEXT, dict: TEXT}
BLOCK_BYTES = 4 * 2**20

Parse = Callable[[bytes], Mapping[str, Any]]


def kind_of(value: Any) -> pa.DataType:
    """The type of one JSON value."""
    if type(value) in SIMPLE:
        return SIMPLE[type(value)]
    if isinstance(value, int) and value in INT64:
        return INTEGER if -EXACT <= value <= EXACT else WIDE
    if isinstance(value, list):
        inner = functools.reduce(wider_kind, map(kind_of, value), NULL)
        mixed = inner == TEXT and not all(isinstance(item, str | None) for item in value)
        return TEXT if mixed or pa.types.is_nested(inner) else pa.list_(inner)
    return TEXT


def wider_kind(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both types; `TEXT` when there is no other."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if {one, other} == {INTEGER, WIDE}:
        return WIDE
    if {one, other} == {INTEGER, NUMBER}:
        return NUMBER
    if pa.types.is_list(one) and pa.types.is_list(other):
        if NULL in (one.value_type, other.value_type):
            return other if one.value_type == NULL else one
        inner = wider_kind(one.value_type, other.value_type)
        return TEXT if inner == TEXT else pa.list_(inner)
    return TEXT


def final_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column whose values have the kind. Null stays: nothing is known."""
    found = _narrow(kind)
    return TEXT if pa.types.is_list(found) and found.value_type == NULL else found


def _narrow(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_narrow(kind.value_type))
    return INTEGER if kind == WIDE else kind


def guess_type(values: Iterable[Any]) -> pa.DataType:
    """The Arrow type of some rows' values; null when every value is null.

    Large whole numbers beside other numbers count as float64, so that `when` can compare them.
    """
    kinds = (_narrow(kind_of(value)) for value in values)
    return final_type(functools.reduce(wider_kind, kinds, NULL))


def comparable_type(guess: pa.DataType, kinds: Iterable[pa.DataType]) -> pa.DataType:
    """The type for comparisons in `when`: the guess, made wider by the kinds that go with it.

    A value of another kind is null there. So `price > 10` compares numbers, whatever else some
    rows hold.
    """
    if guess == NULL:
        return final_type(functools.reduce(wider_kind, kinds, NULL))
    found = guess
    for kind in sorted(kinds, key=str):
        wider = NUMBER if {found, kind} == {NUMBER, WIDE} else wider_kind(found, kind)
        if wider != TEXT:
            found = wider
    return final_type(found)


def fits(kind: pa.DataType, compare: pa.DataType) -> bool:
    """Whether values of the kind are compared in a column of the type `compare`, or are null."""
    if kind == NULL or {kind, compare} == {NUMBER, WIDE}:
        return True
    return bool(final_type(wider_kind(compare, kind)) == compare)


def kinds_in(
    records: Iterable[Line], parse: Parse, guesses: Mapping[str, pa.DataType]
) -> dict[str, set[pa.DataType]]:
    """The kinds of the values in each column of `guesses`, by all rows.

    `records` are the rows, `parse` gives the values of one. Arrow's own parser checks whole
    blocks against the types that are known so far. Only a block with another type is parsed row by
    row.
    """
    found: dict[str, set[pa.DataType]] = {name: set() for name in guesses}
    for block in _blocks(records):
        known = {n: comparable_type(guess, found[n]) for n, guess in guesses.items()}
        if not _conforms(block, known, found):
            rows = [parse(data) for data in block]
            for name, kinds in found.items():
                kinds.update(_kinds(row.get(name) for row in rows))
    return found


def _kinds(values: Iterable[Any]) -> set[pa.DataType]:
    simple: set[type] = set()  # Arrow's types are slow in a set
    kinds: set[pa.DataType] = set()
    for value in values:
        if type(value) in SIMPLE or (type(value) is int and -EXACT <= value <= EXACT):
            simple.add(type(value))
        else:
            kinds.add(kind_of(value))
    return kinds | {SIMPLE.get(kind, INTEGER) for kind in simple}


def _blocks(records: Iterable[Line]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for record in records:
        if record.data is not None:
            block.append(record.data)
            size += len(record.data)
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _conforms(
    block: list[bytes], known: Mapping[str, pa.DataType], found: Mapping[str, set[pa.DataType]]
) -> bool:
    """Whether all rows have the known types, as far as Arrow can tell; adds `WIDE` to `found`."""
    data = b"\n".join(block)
    try:
        table = pa.json.read_json(
            pa.BufferReader(data),
            pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pa.json.ParseOptions(
                explicit_schema=pa.schema(list(known.items())), unexpected_field_behavior="ignore"
            ),
        )
    except (pa.ArrowException, OverflowError):
        return False
    wide = set()
    for name, kind in known.items():
        column = table[name]
        inner = kind.value_type if pa.types.is_list(kind) else kind
        if inner in (INTEGER, NUMBER):
            numbers = pc.list_flatten(column) if pa.types.is_list(kind) else column
            largest = max(map(abs, filter(None, pc.min_max(numbers).as_py().values())), default=0)
            if largest >= EXACT and inner == NUMBER:
                return False  # a whole number, which Arrow has rounded, or a large float
            if largest > EXACT:
                wide.add(name)
    for name in wide:
        found[name].add(pa.list_(WIDE) if pa.types.is_list(known[name]) else WIDE)
    return True
