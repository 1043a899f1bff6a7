"""The shape of answers before anything starts: files, classes, columns, costs, and another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemma_batch.cli.show_plan import plan_facts, print_plan
from gemma_batch.engines import grammars
from gemma_batch.errors import MismatchError, SpecError
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.spec import JobSpec
from tests.planning.test_fingerprint import begin, resume

WHOLE, TEXT = {"type": "integer"}, {"type": "string"}
PAIR = {"type": "object", "properties": {"name": TEXT, "age": WHOLE}, "required": ["name", "age"]}
MODELS = """
from pydantic import BaseModel

class Person(BaseModel):
    name: str
    age: int

class Odd(BaseModel):
    call: type(print)
    model_config = {"arbitrary_types_allowed": True}

class Outer:
    class Inner(BaseModel):
        x: int

number = 3
"""


@pytest.fixture
def spec(tmp_path: Path, model: str) -> Callable[..., JobSpec]:
    def make(answer: dict[str, Any], **parts: Any) -> JobSpec:
        if not (rows := tmp_path / "in.jsonl").exists():
            rows.write_text(json.dumps({"doc": "a text", "kept": 1}))
        return JobSpec.from_dict(
            {
                "input": {"path": str(tmp_path / "in.jsonl")},
                "prompt": {"user": "{{ doc }}"},
                "model": model,
                "answer": answer,
                "sampling": {"max_tokens": 60},
                "output": {"path": str(tmp_path / "out")},
                "resources": {"engine": "echo", "max_model_len": 200, "device": "cpu"},
                **parts,
            }
        )

    return make


def test_a_schema_comes_from_a_file_or_a_class(
    spec: Callable[..., JobSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's spec holds the schema itself, with its properties in their order, and travels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.json").write_text(json.dumps(PAIR))
    (tmp_path / "my_models.py").write_text(MODELS)
    plan = make_plan(spec({"schema": "pair.json"}))
    assert plan.spec.answer.schema == PAIR
    text = yaml.safe_dump(plan.spec.to_dict(), sort_keys=False)
    again = JobSpec.from_dict(yaml.safe_load(text))
    assert isinstance(again.answer.schema, dict)
    assert list(again.answer.schema["properties"]) == ["name", "age"]
    for name in ("my_models:Person", "my_models:Outer.Inner"):
        assert isinstance(make_plan(spec({"schema": name})).spec.answer.schema, dict)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing.json", "'nothing.json' cannot be read: .*No such file"),
        ("broken.json", "'broken.json' cannot be read: Expecting"),
        ("list.json", "'list.json' holds list, and a JSON schema is an object"),
        ("large.json", "bytes, and 1,048,576 are the most"),
        ("s3://b/pair.json", "only a file on this machine"),
        ("no_such_module:A", "there is no module 'no_such_module', neither installed nor in"),
        ("other_models.sub:A", "there is no module 'other_models.sub'"),
        ("other_models:Nobody", "the module 'other_models' has no 'Nobody'"),
        ("other_models:number", "'other_models:number' is no class of Pydantic"),
        ("other_models:Odd", "no JSON schema can be made of 'Odd': "),
        ("needy_models:A", "imports 'no_such_thing', which is not installed"),
        ("broken_models:A", "the import of 'broken_models' failed: ZeroDivisionError"),
    ],
)
def test_a_schema_that_cannot_be_had_is_refused(
    spec: Callable[..., JobSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sentence: str,
) -> None:
    """In one sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "large.json").write_text(" " * 2**21)
    (tmp_path / "other_models.py").write_text(MODELS)
    (tmp_path / "needy_models.py").write_text("import no_such_thing")
    (tmp_path / "broken_models.py").write_text("1 / 0")
    with pytest.raises(SpecError, match=f"answer.schema: .*{sentence}"):
        make_plan(spec({"schema": name}))


@pytest.mark.parametrize(
    ("answer", "parts", "sentence"),
    [
        (
            {"schema": {"type": "integer", "multipleOf": 3}},
            {},
            "answer.schema: the schema has 'multipleOf', which the engine cannot enforce",
        ),
        (
            {"schema": {**PAIR, "type": ["object", "null", "string"]}, "flatten": True},
            {},
            "answer.schema: `flatten` makes columns of the properties of an object, and",
        ),
        (
            {"schema": {**PAIR, "additionalProperties": True}, "flatten": True},
            {},
            "answer.schema: `flatten` makes columns of the properties of an object, and",
        ),
        (
            {"schema": {"type": "object", "properties": {"Model": TEXT}}, "flatten": True},
            {},
            "answer.flatten: a column 'Model' cannot stand beside the column 'model'",
        ),
        (
            {"schema": {"type": "object", "properties": {"output": TEXT}}, "flatten": True},
            {},
            "answer.flatten: a column 'output' cannot stand beside",
        ),
        (
            {"schema": {"type": "object", "properties": {"KEPT": TEXT}}, "flatten": True},
            {"output": {"keep": ["kept"]}},
            r"a column 'KEPT' cannot stand beside the column 'kept \(output.keep\)'",
        ),
        (
            {"schema": PAIR},
            {"output": {"keep": {"answer": "kept"}}},
            "output.keep: 'answer' is the name of a column that the output has of its own",
        ),
    ],
)
def test_what_cannot_come_out_is_refused(
    spec: Callable[..., JobSpec],
    tmp_path: Path,
    answer: dict[str, Any],
    parts: dict[str, Any],
    sentence: str,
) -> None:
    """By the plan, before an output exists."""
    parts = {name: {"path": str(tmp_path / "out"), **part} for name, part in parts.items()}
    with pytest.raises(SpecError, match=sentence):
        make_plan(spec(answer, **parts))


def test_plan_shows_the_columns_and_the_costs(
    spec: Callable[..., JobSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    """Types as Arrow names them, the tokens of the smallest answer, and the time to compile."""
    facts = plan_facts(spec({"schema": PAIR}), gpu=None, gpus=1)
    shape = facts["answer"]
    assert shape["columns"] == {"answer": "struct<name: string, age: int64>"}
    (route,) = shape["routes"].values()
    assert 5 < route["smallest_tokens"] <= len('{"name":"","age":0}')
    assert (route["compile_seconds"] is not None) == grammars.installed()
    assert "names none of its properties ('name', 'age')" in shape["hint"]
    print_plan(facts)
    said = capsys.readouterr().err
    assert "answer   answer: struct<name: string, age: int64>" in said
    assert f"the smallest answer has about {route['smallest_tokens']} tokens" in said
    flat = plan_facts(spec({"schema": PAIR, "flatten": True}), gpu=None, gpus=1)
    assert flat["answer"]["columns"] == {"name": "string", "age": "int64"}
    named = spec({"schema": PAIR}, prompt={"user": "{{ doc }} Give name and age."})
    assert plan_facts(named, gpu=None, gpus=1)["answer"]["hint"] is None
    assert plan_facts(spec({}), gpu=None, gpus=1)["answer"] is None


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ({"schema": PAIR}, 40),
        ({"choice": ["a long label of many letters", "x"]}, 1),
        ({"regex": "[a-z]{30}|[0-9]{50}"}, 50),
    ],
)
def test_a_shape_that_never_fits_is_told(
    spec: Callable[..., JobSpec], answer: dict[str, Any], fits: int
) -> None:
    """When even the smallest answer is longer than the longest that is allowed."""
    enough = make_plan(spec(answer, sampling={"max_tokens": fits}))
    assert not [note for note in enough.notes if "every row will fail" in note]
    if fits > 1:
        few = make_plan(spec(answer, sampling={"max_tokens": 2}))
        (note,) = [note for note in few.notes if "every row will fail" in note]
        assert "sampling.max_tokens is 2" in note


def test_a_bounded_text_is_told(spec: Callable[..., JobSpec]) -> None:
    """The engine writes no quotation marks in it."""
    plan = make_plan(spec({"schema": {"type": "array", "items": {**TEXT, "maxLength": 5}}}))
    assert [note for note in plan.notes if "the schema's '/items' bounds the length" in note]


@pytest.mark.parametrize(
    ("first", "then", "difference"),
    [
        (PAIR, {**PAIR, "required": ["name"]}, '"required": ["name", "age"]'),
        (
            PAIR,
            {**PAIR, "properties": dict(reversed(PAIR["properties"].items()))},  # type: ignore[attr-defined]
            '"age": {"type": "integer"}',
        ),
    ],
)
def test_another_schema_is_another_run(
    spec: Callable[..., JobSpec], first: dict[str, Any], then: dict[str, Any], difference: str
) -> None:
    """Also another order of the properties, which is the order of the columns. The refusal shows
    where the two differ."""

    def planned(schema: dict[str, Any]) -> Plan:
        return make_plan(spec({"schema": schema}))

    begin(planned(first))
    resume(planned(json.loads(json.dumps(first))))
    with pytest.raises(MismatchError, match=r"answer\.schema was ") as found:
        resume(planned(then))
    assert difference in str(found.value)
