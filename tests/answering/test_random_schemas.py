"""Any schema that a job can ask for: dry answers fit it, by a validator that is not ours, and land
in the Arrow type of its column unchanged."""

from __future__ import annotations

import io
import json
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.arrow_types import JsonText, Kind, Record, Series
from gemma_batch.answering.json_answers import JsonAnswer
from gemma_batch.engines.dry_answers import check_dry, dry_answer
from gemma_batch.engines.dry_json import Instances
from gemma_batch.spec.json_schema import check_schema

NAMES = st.sampled_from(["a", "b", "c c", "é", 'q"', "list", "type"])
WHOLES = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)
FRACTIONS = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def ranges(draw: Any, values: Any, least: str, most: str) -> dict[str, Any]:
    """Bounds of a number or of a length, one of them, both or none."""
    low, high = sorted([draw(values), draw(values)])
    bounds = {least: low, most: high}
    return {name: bounds[name] for name in draw(st.sets(st.sampled_from([least, most])))}


def typed(name: str, bounds: Any) -> Any:
    """A schema of one type, which may allow null as well."""
    kinds = st.sampled_from([name, [name, "null"]])
    return st.tuples(kinds, bounds).map(lambda two: {"type": two[0], **two[1]})


SIMPLE = st.one_of(
    typed("string", ranges(st.integers(0, 9), "minLength", "maxLength")),
    typed("string", st.sampled_from([{}, {"pattern": "^[a-c]+x?$"}, {"format": "email"}])),
    typed(
        "string", st.sampled_from([{"format": n} for n in ("date", "time", "date-time", "uuid")])
    ),
    typed("integer", ranges(WHOLES, "minimum", "maximum")),
    typed("number", ranges(FRACTIONS, "minimum", "maximum")),
    typed("number", st.sampled_from([{"exclusiveMinimum": 0, "exclusiveMaximum": 1}, {}])),
    typed("boolean", st.just({})),
    st.lists(st.text(max_size=5), min_size=1, max_size=4).map(lambda found: {"enum": found}),
    st.sampled_from([{"enum": ["x", 1, None, {"y": [1]}]}, {"const": "é"}, {"type": "null"}]),
)


@st.composite
def objects(draw: Any, inner: Any) -> dict[str, Any]:
    """An object, closed or open, with some properties required."""
    properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    needed = [name for name in properties if draw(st.booleans())]
    closed = draw(st.sampled_from([{}, {"additionalProperties": False}]))
    return {"type": "object", "properties": properties, "required": needed, **closed}


def nested(inner: Any) -> Any:
    """Schemas of schemas."""
    lengths = ranges(st.integers(0, 4), "minItems", "maxItems")
    return st.one_of(
        objects(inner),
        st.tuples(inner, lengths).map(lambda two: {"type": "array", "items": two[0], **two[1]}),
        st.tuples(inner, inner).map(lambda two: {"anyOf": list(two)}),
        inner.map(lambda one: {"anyOf": [one, {"type": "null"}]}),
        inner.map(lambda one: {"type": "object", "additionalProperties": one, "minProperties": 1}),
    )


SCHEMAS = st.recursive(SIMPLE, nested, max_leaves=8)


def as_json(kind: Kind, value: Any) -> Any:
    """A value from Arrow as plain JSON has it; properties that are null are left out."""
    if value is None:
        return None
    if isinstance(kind, Record):
        fields = {name: as_json(one, value[name]) for name, one in kind.fields}
        return {name: one for name, one in fields.items() if one is not None}
    if isinstance(kind, Series):
        return [as_json(kind.item, one) for one in value]
    return json.loads(value) if isinstance(kind, JsonText) else value


def without_nulls(kind: Kind, value: Any) -> Any:
    """The answer itself in the same form, with dates as Arrow gives them."""
    if value is None:
        return None
    if isinstance(kind, Record):
        fields = {name: without_nulls(one, value.get(name)) for name, one in kind.fields}
        return {name: one for name, one in fields.items() if one is not None}
    if isinstance(kind, Series):
        return [without_nulls(kind.item, one) for one in value]
    return value if isinstance(kind, JsonText) else kind.value(value)


@given(SCHEMAS, st.integers(0, 10**6))
def test_a_dry_answer_fits_and_lands_unchanged(schema: dict[str, Any], seed: int) -> None:
    """From the schema through the engine's form of it, text, reader, and a Parquet file."""
    check_schema(schema)
    reader = JsonAnswer(schema)
    structure = reader.asks()["structured_outputs"]
    assert check_dry(structure) == []
    ((_, kind),) = reader.fields()
    theirs = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    values, answers = [], []
    for row in range(3):
        text = dry_answer(structure, [seed, row])
        theirs.validate(json.loads(text))
        sample = Sample(text, "stop")
        refusal = reader.read(sample)
        assert refusal is None, refusal
        values.append(sample.values["answer"])
        answers.append(json.loads(text))
    theirs.validate(Instances.of(structure["json"]).smallest())
    sink = io.BytesIO()
    pq.write_table(pa.table({"answer": pa.array(values, kind)}), sink)
    column = pq.read_table(sink)["answer"]
    assert column.type == kind
    stored = [as_json(reader._kind, value) for value in column.to_pylist()]
    assert stored == [without_nulls(reader._kind, answer) for answer in answers]
