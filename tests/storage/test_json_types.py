"""Types of JSON columns: no value of any row is lost, whatever the first rows show."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.keep import keep_value
from gemma_batch.storage.readers import json_types
from gemma_batch.storage.readers.json_types import (
    comparable_type,
    final_type,
    guess_type,
    kind_of,
    kinds_in,
    wider_kind,
)
from gemma_batch.storage.readers.jsonl import JsonlReader
from gemma_batch.storage.readers.text import Line
from tests.examples import examples

Put = Callable[[str, bytes], InputFile]
BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 2], "int64"),
        ([1, 2.5], "double"),
        ([BIG], "int64"),
        ([BIG, 2], "int64"),
        ([BIG, 2.5], "string"),  # as a float, the number would change
        ([2**64], "string"),
        ([1, "x"], "string"),
        ([True, 1], "string"),
        ([True, None], "bool"),
        ([["a"], []], "list<item: string>"),
        ([[], [1], [2.5]], "list<item: double>"),
        ([[1], [BIG], [2.5]], "string"),
        ([[1], ["a"]], "string"),
        ([[1], 1], "string"),
        ([[1, "a"]], "string"),
        ([[]], "string"),
        ([[None], ["a", None]], "list<item: string>"),
        ([[[1]]], "string"),
        ([{"a": 1}], "string"),
        ([None], "null"),
        ([], "null"),
    ],
)
def test_the_type_holds_every_value(values: list[Any], kind: str) -> None:
    """In any order of the rows."""
    for some in (values, values[::-1]):
        guess = guess_type(some)
        found = guess
        for one in kinds_in(lines([{"x": v} for v in some]), parsed, {"x": guess})["x"]:
            found = wider_kind(found, one)
        found = final_type(found)
        assert str(found) == kind
        assert guess == found or guess in (pa.float64(), pa.list_(pa.float64()))
        if kind != "null":
            assert all(keep_value(v, found) is not None for v in some if v is not None)


leaves = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.integers(2**53 - 2, 2**53 + 2)
    | st.sampled_from([2**64, -(2**63), 0.5, 1e17, 1e300, "x", "1", ""])
)  # fmt: skip
some_values = leaves | st.lists(leaves, max_size=3) | st.just({"a": [1]})
some_rows = st.lists(st.dictionaries(st.sampled_from("ab"), some_values), max_size=12)


def lines(rows: list[Any]) -> list[Line]:
    return [Line(0, 1, (r if isinstance(r, str) else json.dumps(r)).encode()) for r in rows]


def parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@given(some_rows, some_rows, st.sampled_from([1, 40, 10**6]))
@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settled_types_hold_all_rows(
    monkeypatch: pytest.MonkeyPatch, first: list[Any], later: list[Any], block: int
) -> None:
    """Whatever the guess from the first rows was, and however rows lie in blocks."""
    monkeypatch.setattr(json_types, "BLOCK_BYTES", block)
    guesses = {name: guess_type(row.get(name) for row in first) for name in "ab"}
    rows = [*first, *later, "broken", "[1]"]
    found = kinds_in(lines(rows), parsed, guesses)
    for name, guess in guesses.items():
        kind = guess
        for one in found[name]:
            kind = wider_kind(kind, one)
        values = [row[name] for row in rows if isinstance(row, dict) and name in row]
        for value in values:
            final = final_type(kind)
            assert value is None or keep_value(value, final) is not None, (value, final)
        slow = {kind_of(value) for value in values}
        assert found[name] <= slow | {pa.null()}  # nothing is invented


def test_a_late_type_is_found_in_its_file(put: Put) -> None:
    """After the rows that were guessed from, beside broken lines, in one pass."""
    rows = [{"n": i, "f": 0.5, "t": ["a"]} for i in range(3000)]
    rows += [{"n": 2.5, "f": 1, "t": []}, {"n": 3, "f": "free", "t": [1]}]  # type: ignore[list-item]
    data = "\n".join([*map(json.dumps, rows), "broken", '{"n": 1'])
    file = put("x.jsonl", data.encode())
    reader = JsonlReader()
    guesses = {field.name: field.type for field in reader.schema(file)}
    assert {n: str(k) for n, k in guesses.items()} == {
        "n": "int64", "f": "double", "t": "list<item: string>",
    }  # fmt: skip
    found = reader.kinds(file, guesses)
    assert comparable_type(guesses["n"], found["n"]) == pa.float64()
    assert comparable_type(guesses["f"], found["f"]) == pa.float64()
    assert pa.string() in found["f"]
    assert pa.list_(pa.int64()) in found["t"]


@pytest.mark.parametrize(
    ("guess", "kinds", "kind"),
    [
        (pa.int64(), [pa.float64()], pa.float64()),
        (pa.int64(), [pa.string(), pa.float64()], pa.float64()),
        (pa.float64(), [kind_of(BIG)], pa.float64()),
        (pa.int64(), [kind_of(BIG)], pa.int64()),
        (pa.int64(), [kind_of(BIG), pa.float64(), pa.bool_()], pa.float64()),
        (pa.bool_(), [pa.int64()], pa.bool_()),
        (pa.null(), [pa.null(), pa.int64()], pa.int64()),
        (pa.null(), [pa.int64(), pa.string()], pa.string()),
    ],
)
def test_a_comparison_keeps_to_the_guess(
    guess: pa.DataType, kinds: list[pa.DataType], kind: pa.DataType
) -> None:
    """`price > 10` compares numbers, whatever some rows hold."""
    assert comparable_type(guess, kinds) == kind
    assert comparable_type(guess, kinds[::-1]) == kind
