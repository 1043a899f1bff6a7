"""Schemas that no job can ask for: each is refused in a sentence that names the place."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec

LEAST = {"input": {"path": "x"}, "output": {"path": "y"}, "model": "m"}
WHOLE = {"type": "integer"}


def nested(depth: int) -> dict[str, Any]:
    """A schema of lists in each other."""
    schema: dict[str, Any] = WHOLE
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def one(schema: Any) -> dict[str, Any]:
    """An object with one property."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "nonsense"}, "the schema's '/type' is no valid JSON schema"),
        (one({"minimum": "0"}), "the schema's '/properties/a/minimum' is no valid JSON schema"),
        ({"type": "array", "items": [WHOLE]}, "'/items' is no valid JSON schema"),
        (nested(40), "more than 32 levels deep"),
        (
            {"type": "object", "properties": {f"p{n}": WHOLE for n in range(2001)}},
            "more than 2,000 schemas",
        ),
        ({"enum": ["x" * 1000 + str(n) for n in range(300)]}, "bytes as JSON, and 262,144 are"),
        (one({"$ref": "https://example.org/s.json"}), "outside of the schema"),
        (one({"$ref": "other.json#/$defs/x"}), "outside of the schema"),
        (one({"$ref": "#/$defs/x"}), "'/properties/a' refers to '#/.defs/x', which does not exist"),
        (one({"$ref": "#name"}), "only JSON pointers"),
        (one({"$ref": "#/properties/a%20b"}), "without percent signs"),
        ({"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}, "no value fits"),
        (one({"$ref": "#"}), "no value fits"),
        ({"enum": []}, "an `enum` without a value"),
        (one({"type": "string", "minLenght": 3}), "'minLenght'.*did you mean 'minLength'"),
        (one({"$id": "urn:x", "type": "string"}), "moves its references"),
        (one({"type": "string", "pattern": "(?=a)b"}), "looks ahead"),
        (one({"type": "string", "pattern": 'a"'}), "JSON writes with a backslash"),
        (one({"type": "integer", "minimum": 5, "maximum": 4}), "minimum 5 is above maximum 4"),
        (one({"type": "integer", "minimum": 0.5}), "no whole number"),
        (one({"type": "integer", "maximum": 10**30}), "no whole number of 64 bits"),
        ({"type": "object", "properties": {"a": WHOLE}, "required": ["b"]}, "'b', which `prop"),
        ({"type": "object", "properties": {"Ab": WHOLE, "aB": WHOLE}}, "differ only by case"),
        ({"type": "object", "properties": {"": WHOLE}}, "can name no column"),
    ],
)
def test_a_schema_is_refused_with_its_place(schema: dict[str, Any], sentence: str) -> None:
    """Before anything is looked at but the spec."""
    with pytest.raises(SpecError, match=rf"answer\.schema: .*({sentence})"):
        JobSpec.from_dict({**LEAST, "answer": {"schema": schema}})


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"schema": True}, "answer.schema"),
        ({"schema": {}, "flatten": True}, "which has none at its top"),
        ({"schema": nested(1), "flatten": True}, "which has none at its top"),
        ({"regex": "(a"}, r"answer.regex: the pattern '\(a'"),
        ({"grammar": "start: A"}, "answer.grammar: has no rule `root ::= ...`"),
        ({"choice": ["a"], "regex": "a"}, "are two shapes"),
    ],
)
def test_other_shapes_are_refused_too(answer: dict[str, Any], sentence: str) -> None:
    """With the field."""
    with pytest.raises(SpecError, match=sentence):
        JobSpec.from_dict({**LEAST, "answer": answer})


@pytest.mark.parametrize(
    "sampling",
    [
        {"stop": "}"},
        {"stop_token_ids": [1]},
        {"ignore_eos": True},
        {"allowed_token_ids": [1]},
        {"bad_words": ["x"]},
    ],
)
def test_sampling_that_works_against_a_shape_is_refused(sampling: dict[str, Any]) -> None:
    """Both fields are named; without a shape nothing is wrong with it."""
    (name,) = sampling
    spec = {**LEAST, "sampling": sampling}
    JobSpec.from_dict(spec)
    with pytest.raises(SpecError, match=rf"`sampling.{name}` .* `answer.regex`"):
        JobSpec.from_dict({**spec, "answer": {"regex": "a"}})


def test_a_bias_may_choose_among_what_a_shape_allows() -> None:
    """It cannot let a token in: a calibrated choice of labels is such a job."""
    JobSpec.from_dict({**LEAST, "sampling": {"logit_bias": {1: 9}}, "answer": {"choice": ["a"]}})


def test_a_schema_may_hold_itself_where_it_can_end() -> None:
    """A tree is a common thing to ask for."""
    tree = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "parts": {"type": "array", "items": {}}},
        "required": ["name", "parts"],
    }
    tree["properties"]["parts"]["items"] = {"$ref": "#"}  # type: ignore[index]
    JobSpec.from_dict({**LEAST, "answer": {"schema": tree}})
    tree["properties"]["parts"]["minItems"] = 1  # type: ignore[index]
    with pytest.raises(SpecError, match="no value fits"):
        JobSpec.from_dict({**LEAST, "answer": {"schema": tree}})


def test_a_schema_that_grows_without_end_is_refused_at_once() -> None:
    """Python's dicts may hold one another, or themselves."""
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    for _ in range(100):
        schema = {"type": "object", "properties": {"a": schema, "b": schema}}
    with pytest.raises(SpecError, match="levels deep"):
        JobSpec.from_dict({**LEAST, "answer": {"schema": schema}})
    schema["properties"]["c"] = schema
    with pytest.raises(SpecError, match="levels deep"):
        JobSpec.from_dict({**LEAST, "answer": {"schema": schema}})


def test_a_long_chain_of_references_is_followed() -> None:
    """In either order of its links, in no more time than the others."""
    links = {f"x{n}": {"$ref": f"#/$defs/x{n + 1}"} for n in range(900)}
    for defs in (links, dict(reversed(links.items()))):
        schema = {"$ref": "#/$defs/x0", "$defs": {**defs, "x900": WHOLE}}
        JobSpec.from_dict({**LEAST, "answer": {"schema": schema}})
