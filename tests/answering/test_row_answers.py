"""Rows that bring the shape of their answer along: from the file to the columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.answering.host import Host
from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.commit import commit_unit
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import make_plan
from gemma_batch.planning.sample import sample_routes
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Outcome, Request
from gemma_batch.spec import Answer, JobSpec, Tools
from gemma_batch.storage.fs import open_store
from gemma_batch.units.asked import Asked
from gemma_batch.units.payload import decode, encode
from tests.planning.test_foresight import USER, job

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "size": {"enum": ["small", "big"]},
        "people": {"type": "integer"},
        "parts": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "size"],
    "additionalProperties": False,
}


def run(spec: JobSpec) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Prepare, answer and commit every unit of a job; the results, and the errors by row."""
    made = make_plan(spec)
    plan = made.placed(Hardware(gpu=None))
    ready = plan.job(plan.routes[0])
    foreseen = sample_routes(made)["all"].failures
    shape, preparer = shape_of(ready.sampling, ready.asked), Preparer(ready)
    host = Host(ready.engine, in_flight=ready.in_flight, policy=ready.policy, check=shape.check)
    store = open_store(spec.output.path)
    try:
        for unit in plan.units():
            head, rows = encode(preparer.prepare(made.survey.shards, unit)).to_pylist()[0].values()
            prepared = decode(head, rows)
            answers: dict[int, Outcome] = {**prepared.failures, **host.run(prepared.requests)}
            commit_unit(store, ready, prepared, answers, {}, shape=shape)
    finally:
        host.close()
    folder = Path(spec.output.path)
    errors = pq.ParquetDataset(folder / "errors").read().to_pylist()
    before = [one for one in errors if one["code"] != "invalid_answer"]
    assert sum(foreseen.values()) == len(before)
    return pq.ParquetDataset(folder / "results").read(), errors


def line(name: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "body": {"messages": [USER], **body}}


def schema(inner: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inner, **more}}


CITY_ARGUMENT = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY_ARGUMENT}}
SLOW = {"name": "slow", "parameters": {"properties": {"x": {"pattern": "^(a+)+$b"}}}}
OTHER = {"type": "function", "function": {"name": "other"}}
MIXED = [
    line("text"),
    line("plain", response_format={"type": "text"}, user="u", metadata={"a": "b"}, store=True),
    line("object", response_format={"type": "json_object"}, max_completion_tokens=7),
    line("city", response_format=schema(CITY, strict=True), service_tier="flex"),
    line("label", structured_outputs={"choice": ["billing", "shipping"]}),
    line("older", guided_json=CITY, n=1),
    line("words", guided_regex="(very )*good"),
    line("rule", guided_grammar='root ::= "yes" | "no"'),
    line("may call", tools=[WEATHER], parallel_tool_calls=False),
    line("must call", tools=[WEATHER, OTHER], tool_choice="required"),
    line("calls this", tools=[WEATHER, OTHER], tool_choice={"name": "weather"}),
    line("shown", tools=[WEATHER], tool_choice="none", response_format={"type": "json_object"}),
    line("no function", tools=[{"type": "web_search"}]),
    line("no tools", tool_choice="required"),
    line("both", tools=[WEATHER], guided_regex="a"),
    line("no type", response_format=schema({"type": "nonsense"})),
    line("elsewhere", response_format=schema({"$ref": "https://example.org/city.json"})),
    line("broken", guided_regex="("),
    line("no rule", guided_grammar="nothing"),
    line("two", guided_regex="a", guided_choice=["a"]),
    line("n", n=2),
]
BAD = {"no function", "no tools", "both", "no type", "elsewhere", "broken", "no rule", "two", "n"}


def test_each_row_of_a_batch_file_gets_the_shape_that_it_asks_for(
    tmp_path: Path, model: str
) -> None:
    """Typed as JSON text; a row whose shape is wrong fails alone, before an engine sees it."""
    long = {"engine": "echo", "max_model_len": 2048}
    results, errors = run(job(tmp_path, model, MIXED, resources=long))
    assert results.schema.field("answer").type == pa.string()
    found = {one["id"]: one for one in results.to_pylist()}
    assert {one["id"]: one["code"] for one in errors} == dict.fromkeys(BAD, "bad_params")
    assert found.keys() | BAD == {one["custom_id"] for one in MIXED}
    values = {
        name: None if one["answer"] is None else json.loads(one["answer"])
        for name, one in found.items()
    }
    assert values["text"] is values["plain"] is None
    assert isinstance(values["object"], dict)
    for name in ("city", "older"):
        jsonschema.Draft202012Validator(CITY).validate(values[name])
    assert values["label"] in ("billing", "shipping")
    assert values["rule"] in ("yes", "no")
    assert values["words"].endswith("good")
    assert found["label"]["output"] == values["label"]
    calls = {name: one["tool_calls"] for name, one in found.items()}
    assert {name for name, one in calls.items() if one is not None} == {
        "may call", "must call", "calls this", "shown",
    }  # fmt: skip
    assert (calls["may call"], calls["shown"]) == ([], [])
    assert isinstance(values["shown"], dict)
    assert {call["name"] for call in calls["must call"]} <= {"weather", "other"}
    (named,) = calls["calls this"]
    assert named["name"] == "weather"
    assert all(call["valid"] for call in (*calls["must call"], named))
    assert isinstance(json.loads(named["arguments"])["city"], str)


def check(form: dict[str, Any], text: str, reason: str = "stop") -> tuple[str | None, Any]:
    """The message of the refusal, and the values of the columns."""
    asked = Asked(answer=Answer(rows=True), tools=Tools(rows=True))
    answer = Completion([text], [reason], 5, 3)
    refusal = shape_of({}, asked).check(answer, Request(0, TokenPrompt([2]), {}, form))
    return (None, answer.values[0]) if refusal is None else (refusal.message, None)


@pytest.mark.parametrize(
    ("shape", "text", "value"),
    [
        ({"schema": {}}, "null", "null"),
        ({"schema": {"type": "integer"}}, " 7\n", "7"),
        ({"schema": {"type": "string", "format": "date"}}, '"2026-11-28"', '"2026-11-28"'),
        ({"schema": {"type": "object"}}, '{"b": [1.50, "\u00e9"]}', '{"b":[1.5,"\u00e9"]}'),
        ({"choice": ["a", 'b "c"']}, 'b "c"', '"b \\"c\\""'),
        ({"regex": "a+"}, "aa", '"aa"'),
        ({"grammar": 'root ::= "yes"'}, "yes", '"yes"'),
    ],
)
def test_the_value_is_kept_as_json(shape: dict[str, Any], text: str, value: str) -> None:
    """Of whatever type."""
    assert check({"answer": shape}, text) == (None, {"answer": value})
    json.loads(value)


@pytest.mark.parametrize(
    ("form", "text", "reason", "said"),
    [
        ({"answer": {"schema": {"type": "integer"}}}, "x", "stop", "no JSON that can be kept"),
        ({"answer": {"schema": {"type": "integer"}}}, '"x"', "stop", "does not fit the schema"),
        ({"answer": {"schema": {"type": "object"}}}, '{"a"', "length", "was cut off after"),
        ({"answer": {"choice": ["a"]}}, "b", "stop", "none of the labels"),
        ({"answer": {"regex": "a+"}}, "b", "stop", "does not match"),
        ({"answer": {"regex": "(a+)+b"}}, "a" * 5000, "stop", "does not match"),
        ({"answer": {"grammar": 'root ::= "yes"'}}, "no", "stop", "does not follow"),
        ({"tools": {"definitions": [OTHER], "choice": "required"}}, "x", "stop", "no function"),
        ({"tools": {"definitions": [SLOW], "choice": "required"}},
         '[{"name": "slow", "parameters": {"x": "%s"}}]' % ("a" * 5000), "stop", "None"),
        ({"tools": {"definitions": [OTHER]}, "one_call": True}, "[other(), other()]", "stop",
         "2 calls, and parallel_tool_calls is false"),
    ],
)  # fmt: skip
def test_an_answer_without_the_shape_of_its_row_is_refused(
    form: dict[str, Any], text: str, reason: str, said: str
) -> None:
    """Each row by its own, in a time that no row's pattern decides."""
    message, values = check(form, text, reason)
    assert said in str(message)
    if message is None:
        assert [call["valid"] for call in values["tool_calls"]] == [False]
    assert check({}, text, reason) == (None, {})
