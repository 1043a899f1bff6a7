"""Typed answers: from a schema to a type, and from a text to a value or a refusal (promise 8)."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel, Field

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.arrow_types import kind_of
from gemma_batch.answering.json_answers import JsonAnswer
from gemma_batch.answering.shapes import shape_of
from gemma_batch.rows import Completion
from gemma_batch.spec import Answer
from gemma_batch.units.asked import Asked
from tests.answering.test_feed import good

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
UTC = pa.timestamp("us", tz="UTC")
TREE = {
    "type": "object",
    "properties": {"v": WHOLE, "parts": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
}


def record(**properties: Any) -> dict[str, Any]:
    """An object with these properties, none of which is required."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The way in which Pydantic writes an optional value."""
    return {"anyOf": [schema, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (TEXT, pa.string()),
        (WHOLE, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": "null"}, pa.string()),
        ({"type": ["integer", "null"]}, pa.int64()),
        (nullable(WHOLE), pa.int64()),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "string", "format": "time"}, pa.time64("us")),
        (nullable({"type": "string", "format": "date-time"}), UTC),
        ({"type": "string", "format": "uuid"}, pa.string()),
        ({"enum": ["a", "b", None]}, pa.string()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"enum": [True, False]}, pa.bool_()),
        ({"enum": ["a", 1]}, pa.string()),
        ({"const": 3}, pa.int64()),
        ({"type": "array", "items": WHOLE}, pa.list_(pa.int64())),
        (
            {"type": "array", "items": {"type": "array", "items": TEXT}},
            pa.list_(pa.list_(pa.string())),
        ),
        ({"type": "array"}, pa.string()),
        ({"type": "array", "prefixItems": [WHOLE], "items": False}, pa.string()),
        (record(a=WHOLE, b=TEXT), pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ({"type": "object", "properties": {"a": WHOLE}}, pa.struct([("a", pa.int64())])),
        ({"type": "object"}, pa.string()),
        ({"type": "object", "properties": {"a": WHOLE}, "additionalProperties": True}, pa.string()),
        ({"type": "object", "additionalProperties": WHOLE}, pa.string()),
        ({"type": "object", "patternProperties": {"^x$": WHOLE}}, pa.string()),
        ({"anyOf": [WHOLE, TEXT]}, pa.string()),
        ({"anyOf": [record(a=WHOLE), record(b=TEXT)]}, pa.string()),
        ({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "string"}]}, pa.string()),
        ({"oneOf": [WHOLE, {"type": "null"}]}, pa.int64()),
        ({"allOf": [WHOLE]}, pa.int64()),
        ({}, pa.string()),
        (
            {"$defs": {"x": WHOLE}, **record(a={"$ref": "#/$defs/x"})},
            pa.struct([("a", pa.int64())]),
        ),
        (
            {"$defs": {"tree": TREE}, **record(a={"$ref": "#/$defs/tree"}, b=WHOLE)},
            pa.struct([("a", pa.string()), ("b", pa.int64())]),
        ),
        ({"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"}, pa.string()),
    ],
)
def test_each_schema_has_one_type(schema: dict[str, Any], kind: pa.DataType) -> None:
    """What has no one type becomes JSON text."""
    Answer(schema=schema)
    assert kind_of(schema).type == kind


def test_a_schema_that_multiplies_itself_is_refused() -> None:
    """Each reference doubles the columns, in a schema of a few lines."""
    defs = {"x0": WHOLE}
    for n in range(1, 15):
        inner = {"$ref": f"#/$defs/x{n - 1}"}
        defs[f"x{n}"] = record(a=inner, b=inner)
    with pytest.raises(ValueError, match="more than 2,000 columns"):
        kind_of({"$defs": defs, "$ref": "#/$defs/x14"})


def read(schema: dict[str, Any], text: str, reason: str = "stop") -> Any:
    """The value of an answer, or the sentence of its refusal."""
    sample = Sample(text, reason)
    refusal = JsonAnswer(schema).read(sample)
    if refusal is not None:
        assert refusal.code == "invalid_answer"
        assert refusal.again
        assert not sample.values
        return refusal.message
    return sample.values["answer"]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (record(a=WHOLE, b=TEXT), ' {"a": 1} ', {"a": 1, "b": None}),
        (record(a=nullable(WHOLE)), '{"a": null}', {"a": None}),
        (WHOLE, str(2**63 - 1), 2**63 - 1),
        (WHOLE, str(-(2**63)), -(2**63)),
        (WHOLE, "2.0", 2),
        ({"type": "number"}, "2", 2.0),
        ({"type": "number"}, "0.1", 0.1),
        ({"type": "number"}, str(2**53), float(2**53)),
        (TEXT, '"\\u00e9\\ud83d\\ude00"', "é😀"),
        (TEXT, '"a\tb\x07"', "a\tb\x07"),
        ({"type": "string", "format": "date"}, '"2024-02-29"', dt.date(2024, 2, 29)),
        (
            {"type": "string", "format": "date-time"},
            '"2024-02-29T23:30:00.25-05:00"',
            dt.datetime(2024, 3, 1, 4, 30, 0, 250_000, dt.UTC),
        ),
        ({"type": "string", "format": "time"}, '"23:30:00.1+01:00"', dt.time(22, 30, 0, 100_000)),
        ({"type": "string", "format": "time"}, '"00:30:00.1000000Z"', dt.time(0, 30, 0, 100_000)),
        ({"type": "array", "items": nullable(WHOLE)}, "[1, null]", [1, None]),
        ({"anyOf": [WHOLE, TEXT]}, '"é"', '"é"'),
        ({}, '{"b": [1, 2.5e0], "a": null}', '{"b":[1,2.5],"a":null}'),
        ({}, "null", None),
    ],
)
def test_a_value_arrives_unchanged(schema: dict[str, Any], text: str, value: Any) -> None:
    """In Python, and in the Arrow type of its column."""
    found = read(schema, text)
    assert found == value
    assert type(found) is type(value)
    column = pa.array([found], kind_of(schema).type)
    column.validate(full=True)
    assert column.to_pylist() == [value]


@pytest.mark.parametrize(
    ("schema", "text", "sentence"),
    [
        (WHOLE, "12x", "is no JSON that can be kept"),
        (WHOLE, "", "is no JSON that can be kept"),
        (WHOLE, "1 2", "is no JSON that can be kept"),
        (WHOLE, '"1"', "does not fit the schema: '1' is not of type 'integer'"),
        (WHOLE, str(2**63), "does not fit 64 bits"),
        (WHOLE, "9" * 10_000, "does not fit 64 bits"),
        ({}, str(2**63), "does not fit 64 bits"),
        ({"type": "number"}, "1e400", "the number 1e400 does not fit 64 bits"),
        ({"type": "number"}, str(2**53 + 1), "has more digits"),
        ({"type": "number"}, "NaN", "NaN is no JSON"),
        ({"type": "number"}, "-Infinity", "-Infinity is no JSON"),
        (record(a=WHOLE), '{"a": 1, "a": 1}', "names the property 'a' twice"),
        (record(a=WHOLE), '{"b": 1}', "does not fit the schema"),
        ({"type": "object", "properties": {"a": WHOLE}}, '{"b": 1}', "which the schema does not"),
        (record(a=record(b=WHOLE)), '{"a": {"b": 1.5}}', "/a/b: 1.5 is not of type 'integer'"),
        ({"type": "string", "format": "date"}, '"2023-02-29"', "is not a 'date'"),
        ({"type": "string", "format": "date"}, '"20240229"', "is not a 'date'"),
        ({"type": "string", "format": "time"}, '"10:00:00"', "is not a 'time'"),
        ({"type": "string", "format": "time"}, '"23:59:60Z"', "is not a 'time'"),
        ({"type": "string", "format": "time"}, '"10:00:00.1234567Z"', "is not a 'time'"),
        ({"type": "string", "format": "date-time"}, '"0001-01-01T00:00:00+05:00"', "date-time"),
        ({"type": "string", "format": "uuid"}, '"x"', "is not a 'uuid'"),
        ({"type": "string", "format": "email"}, '"x"', "is not a 'email'"),
        ({"type": "string", "pattern": "^a+$"}, '"ab"', "does not match"),
        (TEXT, '"\\ud800"', "half of a surrogate pair"),
        ({}, '["\\ud800"]', "half of a surrogate pair"),
        ({"type": "array"}, "[" * 100_000, "nests too deep|no JSON that can be kept"),
    ],
)
def test_nothing_is_changed_in_silence(schema: dict[str, Any], text: str, sentence: str) -> None:
    """What a column cannot hold is refused, with the reason."""
    assert re.search(sentence, read(schema, text)), read(schema, text)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (record(a=WHOLE), '{"a": 1', "the answer was cut off"),
        (WHOLE, "12", "the answer was cut off"),
        (record(a=WHOLE), '{"a": 1}', {"a": 1}),
    ],
)
def test_an_answer_that_was_cut_off_is_no_answer(
    schema: dict[str, Any], text: str, value: Any
) -> None:
    """A number might have gone on; an object that is closed is whole."""
    assert read(schema, text, "length") == value


class Line(BaseModel):
    """A line of an order."""

    what: str
    count: int = Field(ge=1)


class Order(BaseModel):
    """What people write down about an order."""

    customer: str = Field(description="who pays")
    state: Literal["open", "paid"]
    day: dt.date
    at: dt.datetime | None = None
    lines: list[Line] = Field(min_length=1)
    more: dict[str, int] = {}


def test_a_class_of_pydantic_gives_a_struct() -> None:
    """With the fields in its order, and all of its answers."""
    answer = Answer(schema=Order)  # type: ignore[arg-type]
    assert isinstance(answer.schema, dict)
    line = pa.struct([("what", pa.string()), ("count", pa.int64())])
    assert kind_of(answer.schema).type == pa.struct(
        [
            ("customer", pa.string()),
            ("state", pa.string()),
            ("day", pa.date32()),
            ("at", UTC),
            ("lines", pa.list_(line)),
            ("more", pa.string()),
        ]
    )
    order = Order(
        customer="é", state="paid", day=dt.date(2026, 11, 28), lines=[Line(what="x", count=2)]
    )
    found = read(answer.schema, order.model_dump_json())
    assert found["lines"] == [{"what": "x", "count": 2}]
    assert found["day"] == order.day
    assert found["more"] == "{}"


def test_flatten_gives_a_column_for_each_property() -> None:
    """In the schema's order; with n > 1 each column holds lists."""
    schema = {**record(b=WHOLE, a=TEXT, c=record(d=WHOLE)), "required": ["b"]}
    asked = Asked(answer=Answer(schema=schema, flatten=True))
    shape = shape_of({}, asked)
    assert [name for name, _ in shape.fields()] == ["output", "b", "a", "c", "finish_reason"]
    done = Completion(['{"b": 1, "c": {"d": 2}}'], ["stop"], 1, 1)
    assert shape.check(done, good(1)) is None
    columns = shape.columns([done])
    assert (columns["b"], columns["a"], columns["c"]) == ([1], [None], [{"d": 2}])
    several = shape_of({"n": 2}, asked)
    assert dict(several.fields())["b"] == pa.list_(pa.int64())
    done = Completion(['{"b": 1}', '{"b": 2, "a": "x"}'], ["stop"] * 2, 1, 1)
    assert several.check(done, good(1)) is None
    columns = several.columns([done])
    assert (columns["b"], columns["a"]) == ([[1, 2]], [[None, "x"]])


def test_the_engine_gets_a_schema_of_what_columns_can_hold() -> None:
    """Numbers of 64 bits, days of the calendar, no remarks; what was asked for stays."""
    schema = {
        **record(
            n={"type": ["integer", "null"], "minimum": 3, "description": "x"},
            title={"type": "string", "maxLength": 5},
            day={"type": "string", "format": "date"},
        ),
        "title": "A title",
    }
    given = json.loads(JsonAnswer(schema).asks()["structured_outputs"]["json"])
    assert "title" not in given
    properties = given["properties"]
    assert properties["n"] == {"type": ["integer", "null"], "minimum": 3, "maximum": 2**63 - 1}
    assert properties["title"].keys() == {"type", "pattern"}
    assert re.fullmatch(properties["title"]["pattern"], "é 'x")
    assert not re.fullmatch(properties["title"]["pattern"], 'a"b')
    assert not re.fullmatch(properties["title"]["pattern"], "abcdef")
    assert "format" not in properties["day"]
