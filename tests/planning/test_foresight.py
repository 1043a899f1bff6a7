"""Foresight: the plan counts what will fail as the run does, with or without a model's files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gemma_batch.cli.show_plan import plan_facts, print_plan
from gemma_batch.cli.starter import starter_spec
from gemma_batch.driver.run import run
from gemma_batch.errors import GemmaBatchError, InputError, SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.foresight import check_usable, over_budget, warnings
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.preview import first_prompt
from gemma_batch.planning.sample import sample_routes
from gemma_batch.reading.prepare import Preparer
from gemma_batch.spec import Budget, JobSpec, Policy

USER = {"role": "user", "content": "the fox"}
ANSWER = {"role": "assistant", "content": "the dog"}
OK = {"text": "the fox", "n": 1}


def batch(messages: Any = (USER,), **body: Any) -> dict[str, Any]:
    return {"custom_id": "r", "body": {"messages": messages, **body}}


def job(folder: Path, model: str, lines: Sequence[Any], **changes: Any) -> JobSpec:
    """A job over a file with these lines: text as it is, other values as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "in.jsonl").write_text("".join(f"{text}\n" for text in texts))
    return JobSpec.from_dict(
        {
            "input": {"path": str(folder / "in.jsonl")},
            "model": model,
            "sampling": {"max_tokens": 8},
            "output": {"path": str(folder / "out")},
            "resources": {"engine": "echo", "max_model_len": 256},
            **changes,
        }
    )


def without_files(plan: Plan) -> Plan:
    """The plan as it is on a laptop that cannot reach the model's files."""
    return replace(plan, routes=tuple(replace(route, files=None) for route in plan.routes))


def in_the_run(plan: Plan) -> Counter[str]:
    """The codes that the run gives these rows before any engine sees them."""
    placed = plan.placed(Hardware(gpu=None))
    preparer = Preparer(placed.job(placed.routes[0]))
    found: Counter[str] = Counter()
    for unit in placed.units():
        prepared = preparer.prepare(placed.survey.shards, unit)
        found.update(failure.code for failure in prepared.failures.values())
    return found


# One odd row a line: the row, and its failure code (None: it is answered). The last column is a
# word of the message.
TALKS: list[tuple[Any, str | None, str]] = [
    (batch(), None, ""),
    (batch(user="u", store=True, metadata={"a": "b"}, stream=True, n=1), None, ""),
    (batch(service_tier="flex", parallel_tool_calls=True, stream_options={"x": 1}), None, ""),
    (batch(max_completion_tokens=5, stop="x", seed=1, logit_bias={"5": 1}), None, ""),
    (batch(frequency_penalty=1, presence_penalty=1, response_format={"type": "text"}), None, ""),
    (batch(extra_body={"top_k": 4}, min_p=0.1, repetition_penalty=1.1), None, ""),
    (batch([USER, ANSWER], continue_final_message=True), None, ""),
    (batch([USER, ANSWER], extra_body={"continue_final_message": True}), None, ""),
    ({**batch(), "custom_id": 7}, None, ""),
    ({**batch(), "url": "https://host/v1/chat/completions/"}, None, ""),
    (batch(response_format={"type": "xml"}), "bad_params", "'response_format'"),
    (batch(tools=[{"type": "function"}]), "bad_params", "'tools'"),
    (batch(guided_json=[1]), "bad_params", "'guided_json'"),
    (batch(reasoning_effort="high"), "bad_params", "'reasoning_effort'"),
    (batch(logprobs=True, top_logprobs=2), "bad_params", "sampling.logprobs"),
    (batch(n=2), "bad_params", "'n'"),
    (batch(temperature=-1), "bad_params", "temperature"),
    (batch(top_k=1, extra_body={"top_k": 2}), "bad_params", "'top_k' has another value"),
    (batch(extra_body=[1]), "bad_params", "'extra_body' is list"),
    (batch([USER, ANSWER]), "bad_messages", "prompt.last_answer: drop"),
    (batch([{"role": "tool", "content": "7"}]), "bad_messages", "message 0 is a result"),
    (batch([{"role": "user", "content": [{"type": "image_url"}]}]), "bad_messages", "'image_url'"),
    (batch([ANSWER, USER]), "bad_messages", "alternate"),
    (batch([]), "bad_messages", "empty"),
    (batch([{"role": "user", "content": " "}]), "empty_prompt", "empty"),
    (batch(max_tokens=1000), "prompt_too_long", "1,000"),
    ("{", "bad_row", "line 27"),
    ({**batch(), "url": "/v1/embeddings"}, "bad_row", "'/v1/embeddings'"),
    ({"custom_id": "a", "params": {"messages": [USER]}}, "bad_row", "rename"),
    ({"custom_id": "", "body": {"messages": [USER]}}, "bad_row", "'custom_id'"),
]  # fmt: skip
TABLE: list[tuple[Any, str | None, str]] = [
    ({**OK, "own": {"top_p": 0.5}}, None, ""),
    (OK, None, ""),
    ({**OK, "own": '{"seed": 3}'}, None, ""),
    ({"text": None, "n": 1}, "null_value", "'text'"),
    ({"n": 1}, "null_value", "'text'"),
    ({"text": " ", "n": 1}, "empty_prompt", "empty"),
    ({"text": "x " * 2000, "n": 1}, "prompt_too_long", "256"),
    ({**OK, "own": "{"}, "bad_params", "JSON"),
    ({**OK, "own": {"typo": 1}}, "bad_params", "'typo'"),
    ({**OK, "own": [1]}, "bad_params", "list"),
    ("[1]", "bad_row", "not a JSON object"),
]  # fmt: skip


def talks(value: Any, code: str | None, word: str) -> tuple[Any, str | None, str]:
    return {"talk": value, "n": 1}, code, word


COLUMN = [
    talks([USER], None, ""),
    talks(json.dumps([USER]), None, ""),
    talks([{"from": "human", "value": "the fox"}], None, ""),
    talks("the fox", "bad_messages", "prompt.user"),
    talks({"role": "user"}, "bad_messages", "not dict"),
    talks(7, "bad_messages", "not int"),
    talks([7], "bad_messages", "message 0"),
    talks(None, "null_value", "'talk'"),
    talks([{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}], "bad_messages", "last"),
]
JOBS: dict[str, tuple[list[tuple[Any, str | None, str]], dict[str, Any]]] = {
    "batch": (TALKS, {}),
    "template": (TABLE, {"prompt": {"user": "Say {{ text }}", "params": "own"}}),
    "column": (COLUMN, {"prompt": {"messages": "talk"}}),
}


@pytest.mark.parametrize("kind", JOBS)
def test_the_plan_counts_as_the_run_does_with_and_without_files(
    tmp_path: Path, model: str, kind: str
) -> None:
    """Each odd row has its code in the run, in the plan and in the offline plan."""
    rows, changes = JOBS[kind]
    plan = make_plan(job(tmp_path, model, [row for row, _, _ in rows], **changes))
    wanted = Counter(code for _, code, _ in rows if code is not None)
    real, offline = (sample_routes(one)["all"] for one in (plan, without_files(plan)))
    assert in_the_run(plan) == wanted
    assert real.failures == wanted
    assert offline.failures == wanted
    assert (real.rows, real.exact) == (offline.rows, not offline.exact) == (len(rows), True)
    assert len(real.prompt_tokens) == len(offline.prompt_tokens) == len(rows) - wanted.total()


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, i) for kind in JOBS for i in range(len(JOBS[kind][0]))]
)
def test_each_odd_row_is_the_example_of_its_code(
    tmp_path: Path, model: str, kind: str, number: int
) -> None:
    """Alone after a good row: its place, and what is wrong with it."""
    rows, changes = JOBS[kind]
    row, code, word = rows[number]
    plan = make_plan(job(tmp_path, model, [rows[0][0], row], **changes))
    if code is None:
        assert sample_routes(plan)["all"].foreseen == ()
        return
    (one,) = sample_routes(plan)["all"].foreseen
    assert (one.code, one.rows, one.row_number) == (code, 1, 1)
    assert word.replace("line 27", "line 2") in one.message
    assert one.shard == str(tmp_path / "in.jsonl")
    assert one.example.count(one.shard) == 1


def test_kept_values_that_do_not_fit_are_foreseen(tmp_path: Path, model: str) -> None:
    """The schema of kept columns may not hold every row; then the run refuses the row."""
    lines = [{**OK, "n": n} for n in (1, 2.5, "x", None)]
    output = {"path": str(tmp_path / "out"), "keep": ["n"]}
    plan = make_plan(job(tmp_path, model, lines, prompt={"user": "{{ text }}"}, output=output))
    numbers = replace(plan.survey, keep_schema=pa.schema([("n", pa.int64())]))
    for one in (plan, replace(plan, survey=numbers)):
        wanted = in_the_run(one)
        for found in (one, without_files(one)):
            assert sample_routes(found)["all"].failures == wanted
    assert wanted == {"bad_value": 2}


def test_people_read_the_codes_with_their_share_and_first_example(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text and as JSON, with a line when policy.max_failed will not hold."""
    lines = [batch()] * 4 + [batch(n=2), batch([]), batch([USER, ANSWER]), batch()]
    lines[5] = {**lines[5], "custom_id": "odd one"}
    facts = plan_facts(job(tmp_path, model, lines), gpu=None, gpus=1)
    print_plan(facts)
    said = capsys.readouterr().err
    sample = facts["routes"][0]["sample"]
    assert sample["failures"] == {"bad_messages": 2, "bad_params": 1}
    assert [(one["code"], one["rows"], one["share"]) for one in sample["foreseen"]] == [
        ("bad_messages", 2, 0.25),
        ("bad_params", 1, 0.125),
    ]
    first = sample["foreseen"][0]
    assert (first["id"], first["row_number"], first["message"]) == (
        "odd one", 5, "the conversation is empty",
    )  # fmt: skip
    assert "37.5% of them will fail: 3 failed (bad_messages 2, bad_params 1)" in said
    assert "bad_messages (25.0%), first: row 5 of" in said
    assert "(id 'odd one'): the conversation is empty" in said
    (note,) = (note for note in facts["notes"] if "max_failed" in note)
    assert "37.5% of the sampled rows will fail" in note
    assert "exit code 3" in note
    assert "'r' in 7" in sample["doubled"]
    assert "have the same id" in said


@pytest.mark.parametrize(
    ("max_failed", "rows", "said"),
    [
        (0, None, "25.0% of the sampled rows will fail, more than"),
        (0, 1000, "about 250 of 1,000 rows"),
        (1, None, ""),
        (249, 1000, "about 250 of 1,000 rows"),
        (250, 1000, ""),
        ("20%", None, "more than policy.max_failed: 20% allows"),
        ("25%", None, ""),
        (0.3, 10**9, ""),
    ],
)
def test_the_line_about_max_failed(
    tmp_path: Path, model: str, max_failed: Any, rows: int | None, said: str
) -> None:
    """By the rows of the whole input where they are known, else by the sampled ones."""
    samples = sample_routes(make_plan(job(tmp_path, model, [batch()] * 3 + [batch(n=2)])))
    found = warnings(samples, Policy(max_failed=max_failed), rows)
    assert bool(found) == bool(said)
    assert said in "".join(found)


ALL_BAD: list[tuple[list[Any], dict[str, Any], tuple[str, ...]]] = [
    ([batch(n=2)] * 3, {}, ("3 sampled rows", "bad_params 3", "'n' cannot be set by a row")),
    ([{**batch(), "url": "/v1/embeddings"}], {}, ("'/v1/embeddings'", "no vectors")),
    ([batch(), "{"], {"prompt": {"messages": "messages", "params": "messages"}},
     ("bad_params 1", "bad_row 1", "'messages' is list", "line 2")),
    (["x", "y"], {"input": {"format": "openai"}}, ("line 1", "is not JSON")),
    ([{"text": None}] * 2, {"prompt": {"user": "{{ text }}"}}, ("null_value", "'text' is null")),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "changes", "said"), ALL_BAD)
def test_nothing_is_started_when_every_sampled_row_fails(
    tmp_path: Path, model: str, lines: list[Any], changes: dict[str, Any], said: tuple[str, ...]
) -> None:
    """`plan` and `run` refuse with the same sentence, which says why the first rows fail."""
    if "input" in changes:
        changes["input"]["path"] = str(tmp_path / "in.jsonl")
    spec = job(tmp_path, model, lines, **changes)
    with pytest.raises(InputError) as planned:
        plan_facts(spec, gpu=None, gpus=1)
    with pytest.raises(InputError) as ran:
        run(spec)
    assert str(ran.value) == str(planned.value)
    for word in (*said, "nothing was started", "policy.max_failed: 100%"):
        assert word in str(planned.value)
    assert not (tmp_path / "out" / "_run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("max_failed", "refused"), [("100%", False), (2, False), (1, True), ("99%", True)]
)
def test_max_failed_can_allow_that_every_row_fails(
    tmp_path: Path, model: str, max_failed: Any, refused: bool
) -> None:
    """Who says so wants the errors."""
    samples = sample_routes(make_plan(job(tmp_path, model, [batch(n=2)] * 2)))
    policy = Policy(max_failed=max_failed)
    if refused:
        with pytest.raises(InputError):
            check_usable(samples, policy)
    else:
        check_usable(samples, policy)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["no JSON", "neither"], "line 1 of '.*' is not JSON"),
        (["[1]"], "not a JSON object but an array"),
        (["{}"], "have no columns"),
        (["", " "], "the input has no rows"),
    ],
)
def test_an_input_without_a_usable_row_says_why_the_first_is_none(
    tmp_path: Path, model: str, lines: list[str], said: str
) -> None:
    """Not only that a column is missing."""
    with pytest.raises(GemmaBatchError, match=said):
        make_plan(job(tmp_path, model, lines, prompt={"user": "{{ text }}"}))


def test_the_first_prompt_is_that_of_a_row_that_has_one(tmp_path: Path, model: str) -> None:
    """And the first row's failure is told; without the files it is the same text."""
    lines = ["{", batch([]), batch([USER], n=1)]
    plan = make_plan(job(tmp_path, model, lines))
    shown, guessed = first_prompt(plan), first_prompt(without_files(plan))
    assert "the fox" in shown["text"]
    assert guessed["text"] == shown["text"]
    assert shown["note"].startswith("the first row will fail: bad_row: line 1")
    assert guessed["note"].endswith("rendered without the model's files")
    plan = make_plan(job(tmp_path, model, lines[:2]))
    assert first_prompt(plan)["text"] is None
    assert "line 1" in first_prompt(plan)["note"]


SHAREGPT = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
SHAPES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"messages": [USER]}, "prompt: {messages: messages}", "messages"),
    ({"source": "x", "conversations": SHAREGPT},
     "prompt: {messages: conversations, last_answer: drop}", "conversations"),
    ({"my talk": [USER]}, 'prompt: {messages: "my talk"}', "my talk"),
    ({"prompt": [USER]}, "prompt: {messages: prompt}", "prompt"),
    ({"talk": json.dumps([USER])}, "prompt: {messages: talk}", "talk"),
    ({"instruction": "x", "input": "", "output": "y"}, "{{ instruction }}", None),
    ({"instruction": "x"}, 'prompt: {user: "{{ instruction }}"}', None),
    ({"prompt": "x", "completion": "y"}, 'prompt: {user: "{{ prompt }}"}', None),
    ({"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "x"}}, "'/v1/embeddings'", None),
    ({"custom_id": "a", "url": "/v1/responses", "body": {"input": "x"}}, "{{ body.input }}", None),
    ({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x"}}, "body.prompt", None),
    ({"custom_id": "a", "body": {"prompt": "x"}}, "has no 'messages'", None),
    ({"custom_id": "a", "params": {"messages": [USER]}}, "Anthropic", None),
    ({"request": {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}}, "Gemini", None),
    ({"recordId": "1", "modelInput": {"messages": [USER]}}, "Bedrock", None),
    ({"text": "x"}, "give `user`", None),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said", "column"), SHAPES)
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_an_input_without_a_prompt_is_recognised(
    tmp_path: Path, model: str, row: dict[str, Any], said: str, column: str | None, format: str
) -> None:
    """The refusal says which option reads it; conversations are found by `init` and are read."""
    spec = job(tmp_path, model, [row])
    path = tmp_path / "in.jsonl"
    if format == "parquet":
        path = tmp_path / "in.parquet"
        pq.write_table(pa.Table.from_pylist([row]), path)
        spec = spec.model_copy(update={"input": spec.input.model_copy(update={"path": str(path)})})
    with pytest.raises(SpecError) as caught:
        make_plan(spec)
    assert said in str(caught.value)
    if column is not None:
        begun = JobSpec.from_dict(yaml.safe_load(starter_spec(str(path), model)))
        assert begun.prompt.messages == column
        short = begun.resources.model_copy(update={"engine": "echo"})
        (sample,) = sample_routes(make_plan(begun.model_copy(update={"resources": short}))).values()
        assert (sample.rows, sample.failures) == (1, {})
    elif row.keys() & {"instruction", "prompt", "params", "request", "modelInput"}:
        assert said in starter_spec(str(path), model)


@pytest.mark.parametrize(
    "prompt", [{}, {"messages": "messages"}, {"system": "S"}, {"user": "{{ messages }}"}]
)
def test_the_parameters_of_a_batch_file_always_count(
    tmp_path: Path, model: str, prompt: dict[str, Any]
) -> None:
    """Also when the spec says where the prompt comes from: they are never left out unseen."""
    plan = make_plan(job(tmp_path, model, [batch(), batch(n=2)], prompt=prompt))
    assert sample_routes(plan)["all"].failures == {"bad_params": 1}


def test_a_pretrained_model_takes_plain_text_offline_too(tmp_path: Path) -> None:
    """The catalog knows which models have no chat template, so no role is refused."""
    spec = job(tmp_path, "google/gemma-3-1b-pt", [batch([ANSWER, USER]), batch()])
    plan = make_plan(spec, need_files=False)
    if plan.routes[0].files is not None:
        pytest.skip("the model's files are at hand here")
    assert sample_routes(plan)["all"].failures == {}
    assert first_prompt(plan)["text"] == "the dog\n\nthe fox"


def test_a_field_that_is_new_leaves_older_outputs_as_they_are(tmp_path: Path, model: str) -> None:
    """Off, it is not in the fingerprint; on, it is."""
    spec = job(tmp_path, model, [batch()])
    prompt = spec.prompt.model_copy(update={"last_answer": "drop"})
    off, on = make_plan(spec), make_plan(spec.model_copy(update={"prompt": prompt}))
    assert "prompt.last_answer" not in off.fingerprint().fields
    assert off.fingerprint().differences(on.fingerprint()) == [
        "prompt.last_answer was None, now 'drop'"
    ]


@pytest.mark.parametrize(
    ("budget", "gpus", "named"),
    [
        ({}, 8.0, []),
        ({"gpu_hours": 17}, 8.0, []),
        ({"gpu_hours": 15}, 8.0, ["the estimate of 16.00 is more than policy.budget.gpu_hours=15"]),
        ({"gpu_hours": 3}, 0.0, ["the estimate of 4.00 is more than policy.budget.gpu_hours=3"]),
        ({"cost": 30}, 8.0, []),
        (
            {"gpu_hours": 15, "cost": 20},
            8.0,
            [
                "the estimate of 16.00 is more than policy.budget.gpu_hours=15",
                "the estimate of 30.00 is more than policy.budget.cost=20",
            ],
        ),
    ],
)
def test_an_estimate_above_the_budget_is_said(
    budget: dict[str, float], gpus: float, named: list[str]
) -> None:
    """Each limit by itself. Without GPUs, the hours are those of engines: two, for two hours."""
    route = {"seconds": 7200.0, "gpus": gpus, "engines": 2}
    found = over_budget(Budget(**budget), {"cost": 30.0, "routes": [route]})
    assert [sentence.partition(": ")[0] for sentence in found] == named
    assert over_budget(Budget(**budget), None) == []
