"""The functions of a spec: what is taken, and what is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_batch.engines.forced_calls import forced_schema
from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec, Tools

LEAST: dict[str, Any] = {"input": {"path": "x"}, "output": {"path": "y"}, "model": "m"}
F = {"name": "f"}


def spec(definitions: Any, **tools: Any) -> JobSpec:
    more = tools.pop("job", {})
    return JobSpec.from_dict(LEAST | more | {"tools": {"definitions": definitions, **tools}})


def with_schema(**parameters: Any) -> list[dict[str, Any]]:
    return [{"name": "f", "parameters": parameters}]


def test_both_forms_mean_the_same() -> None:
    """OpenAI's form, its inner part, and what may be left out."""
    inner = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}
    for given in ([inner], [{"type": "function", "function": inner}]):
        tools = spec(given).tools
        assert tools is not None
        (found,) = tools.functions
        properties = {"x": {"type": "integer"}}
        parameters = {"type": "object", "properties": properties}
        assert found == {"name": "f", "description": "", "parameters": parameters}
    assert JobSpec.from_dict(spec([inner]).to_dict()) == spec([inner])


DEEP: Any = {"type": "object"}
for _ in range(30):
    DEEP = {"type": "object", "properties": {"x": DEEP}}


@pytest.mark.parametrize(
    ("definitions", "tools", "said"),
    [
        ([], {}, "tools.definitions"),
        ([{}], {}, "function 0 has the name None"),
        ([{"name": "a b"}], {}, "function 0 has the name 'a b': a name has up to 64 letters"),
        ([F, {"name": "<|tool_call>"}], {}, "function 1 has the name '<|tool_call>'"),
        ([{"name": "x" * 65}], {}, "up to 64 letters"),
        ([F, {"type": "function", "function": F}], {}, "two functions are named 'f'"),
        ([{"type": "web_search"}], {}, "function 0 has the type 'web_search'"),
        ([{"type": "function"}], {}, "function 0 has no object `function`"),
        ([{"name": "f", "description": 3}], {}, "the description of the function 'f' is no text"),
        ([{"name": "f", "parameters": [1]}], {}, "'f' are list, and not a JSON schema"),
        (with_schema(type="array"), {}, "have the type 'array': arguments are an object"),
        (with_schema(properties={"x": {"type": "text"}}), {},
         "parameters of the function 'f' are no JSON schema: properties/x/type"),
        (with_schema(properties={"x": {"$ref": "http://x/y"}}), {}, "refer to 'http://x/y'"),
        (with_schema(properties={"x": {"$ref": "#/$defs/y"}}), {}, "leads nowhere: '#/$defs/y'"),
        ([{"name": "f", "parameters": DEEP}], {}, "nested deeper than 24"),
        ([{"name": f"f{i}"} for i in range(129)], {}, "129 functions are more than 128"),
        ([{"name": "f", "description": "x" * 300_000}], {}, "more than 262,144"),
        ([F], {"choice": {"name": "g"}}, "names the function 'g', which `definitions` do not have"),
        ([F], {"choice": "sometimes"}, "tools.choice"),
        ([F], {"job": {"answer": {"choice": ["a"]}}}, "`tools` and `answer.choice` contradict"),
    ],
)  # fmt: skip
def test_definitions_that_cannot_be_used(definitions: Any, tools: Any, said: str) -> None:
    """Each is refused in one sentence that names the function."""
    with pytest.raises(SpecError) as caught:
        spec(definitions, **tools)
    assert said in str(caught.value)


RICH = {
    "name": "f",
    "parameters": {
        "properties": {
            "s": {"type": "string", "pattern": "^a", "minLength": 2, "description": "pattern"},
            "n": {"type": "integer", "minimum": 3, "multipleOf": 3},
            "pattern": {"$ref": "#/$defs/title"},
            "e": {"enum": ["x", "y"]},
            "a": {"type": "array", "items": {"type": ["null", "number"]}, "minItems": 2},
            "o": {"minimum": 3, "maxLength": 4},
            "u": {"allOf": [{"type": "string"}, {"maxLength": 3}]},
            "v": {"oneOf": [{"type": "string", "format": "mine"}, {"type": "null"}]},
        },
        "required": ["n", "pattern", "e", "a"],
        "$defs": {"title": {"type": "object", "properties": {"b": {"const": {"title": 1}}},
                            "required": ["b"]}},
    },
}  # fmt: skip


def test_what_is_forced_is_what_the_engine_can_force() -> None:
    """No keyword that xgrammar refuses; properties with the names of keywords stay."""
    schema = forced_schema(Tools(definitions=(RICH, {"name": "g"}), choice="required"))
    found = schema["$defs"]["f0"]
    assert list(found["properties"]) == ["s", "n", "pattern", "e", "a", "o", "u", "v"]
    assert found["properties"]["v"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert found["properties"]["s"] == {"type": "string"}
    assert found["properties"]["n"] == {"type": "integer", "minimum": 3}
    assert found["properties"]["pattern"] == {"$ref": "#/$defs/f0/$defs/title"}
    assert found["$defs"]["title"]["properties"]["b"] == {"const": {"title": 1}}
    assert [one["properties"]["name"] for one in schema["items"]["anyOf"]] == [
        {"const": "f"}, {"const": "g"}
    ]  # fmt: skip
    named = forced_schema(Tools(definitions=(RICH, {"name": "g"}), choice={"name": "g"}))
    assert (named["maxItems"], list(named["$defs"])) == (1, ["f0"])
    assert named["items"]["properties"]["name"] == {"const": "g"}
