"""A row's own sampling parameters: honoured as the job's are, or a failure of this row."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_batch.engines.structure import STRUCTURE, structure_of
from gemma_batch.reading.own_params import OwnParams
from gemma_batch.reading.own_shape import SHAPE_FIELDS, asks_for_shape
from gemma_batch.reading.own_tools import TOOL_FIELDS, asks_for_tools
from gemma_batch.reading.row_fields import IGNORED, REFUSED
from gemma_batch.rows import Own
from gemma_batch.spec import Answer, NamedTool, Sampling, Tools
from gemma_batch.spec.sampling import params_from_json
from gemma_batch.units.asked import Asked
from tests.examples import examples

VOCAB = 600
DETECTION = {"max_pattern_size": 3, "min_count": 2}


def checked(params: dict[str, Any], engine: str = "vllm", **job: Any) -> dict[str, Any]:
    return brought(params, engine, **job).sampling


def brought(params: dict[str, Any], engine: str = "vllm", **job: Any) -> Own:
    args = job.pop("args", {})
    asked = Asked(
        answer=Answer(**job.pop("answer", {})),
        tools=job.pop("tools", None),
        thinking=job.pop("thinking", False),
    )
    check = OwnParams(
        engine=engine, job={"max_tokens": 64, **job}, args=args, vocab=VOCAB, asked=asked
    )
    return pickle.loads(pickle.dumps(check))(params)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("params", "job", "sentence"),
    [
        ({"allowed_token_ids": []}, {}, "allowed_token_ids"),
        ({"allowed_token_ids": [VOCAB]}, {}, f"allowed_token_ids: the model has no token {VOCAB}"),
        ({"stop_token_ids": [-1]}, {}, "stop_token_ids"),
        ({"logit_bias": {str(VOCAB): 1}}, {}, "logit_bias: the model has no token"),
        ({"logit_bias": {"x": 1}}, {}, "logit_bias"),
        ({"thinking_token_budget": 3}, {}, "thinking_token_budget"),
        ({"logprobs": 3}, {}, "'logprobs' cannot be set by a row in a job without"),
        ({"logprobs": True, "top_logprobs": 3}, {}, "'logprobs' cannot be set by a row in a job"),
        ({"logprobs": 21}, {"logprobs": 5}, "logprobs: 21 is too many"),
        ({"logprobs": 51}, {"logprobs": 50}, "at most 50, by sampling.logprobs"),
        ({"max_tokens": 5}, {"min_tokens": 9}, "min_tokens=9 is above max_tokens=5"),
        ({"temperature": 0}, {"n": 2}, "n=2 with temperature 0"),
        ({"n": 2}, {}, "each row has as many answers as sampling.n says, 1"),
        ({"temperature": 2.5}, {}, "temperature"),
        ({"extra_args": {"x": [{"y": 2**64}]}}, {}, "extra_args: holds a number"),
        ({"extra_args": {"x": json.loads("[" * 900 + "]" * 900)}}, {}, "extra_args: .*50 levels"),
        ({"top_logprobs": 3}, {"logprobs": 3}, "'top_logprobs' cannot be set by a row"),
        ({"top_logprobs": 3, "logprobs": False}, {"logprobs": 3}, "'top_logprobs' cannot be set"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {},
         "'max_completion_tokens' and 'max_tokens' mean the same and differ"),
        ({"continue_final_message": 1}, {}, "continue_final_message: 1 is neither"),
        ({"temprature": 0}, {}, "'temprature' cannot be set by a row; did you mean 'temperature'"),
        ({"prompt_logprobs": 0}, {}, "'prompt_logprobs' cannot be set by a row"),
        ({"system": "Be brief."}, {}, "'system' cannot be set by a row: put it first"),
        ({"stop_sequences": ["x"]}, {}, "'stop_sequences' cannot be set by a row: .*'stop'"),
    ],
)  # fmt: skip
def test_what_the_engine_would_refuse_is_refused_before_it_is_asked(
    params: dict[str, Any], job: dict[str, Any], sentence: str
) -> None:
    """The row's parameters are looked at on top of the job's."""
    with pytest.raises(ValueError, match=sentence):
        checked(params, **job)


@pytest.mark.parametrize(
    ("params", "job", "taken"),
    [
        ({"min_tokens": 300}, {"max_tokens": 512}, {"min_tokens": 300}),
        ({"min_tokens": 0}, {"min_tokens": 5}, {"min_tokens": 0}),
        ({"ignore_eos": False}, {"ignore_eos": True}, {"ignore_eos": False}),
        ({"presence_penalty": 0}, {"presence_penalty": 1.5}, {"presence_penalty": 0}),
        ({"logprobs": 50}, {"logprobs": 50}, {"logprobs": 50}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 5}, {"logprobs": 3}),
        ({"logprobs": False}, {}, {}),
        ({"n": 1, "top_p": 0.5}, {}, {"top_p": 0.5}),
        ({"max_completion_tokens": 9}, {}, {"max_tokens": 9}),
        ({"max_completion_tokens": 9, "max_tokens": 9}, {}, {"max_tokens": 9}),
        ({"logprobs": True}, {"logprobs": 5}, {"logprobs": 0}),
        ({"logprobs": False, "top_logprobs": 0}, {}, {}),
        ({"logit_bias": {"5": 1, "7": None}}, {}, {"logit_bias": {5: 1.0}}),  # a Parquet struct
        ({"logit_bias": [("5", 1)]}, {}, {"logit_bias": {5: 1.0}}),  # a Parquet map
        ({"repetition_detection": {**DETECTION, "min_pattern_size": None}}, {},
         {"repetition_detection": {**DETECTION, "min_pattern_size": 0}}),
        ({"response_format": {"type": "text", "json_schema": None}}, {}, {}),
        ({"max_tokens": 5.0, "top_k": 4.0}, {}, {"max_tokens": 5, "top_k": 4}),
        ({"vllm_xargs": {"a": 1}}, {}, {"extra_args": {"a": 1}}),
        ({"continue_final_message": True, "add_generation_prompt": False}, {}, {}),
        ({"thinking_token_budget": 3}, {"args": {"reasoning_parser": "x"}},
         {"thinking_token_budget": 3}),
    ],
)  # fmt: skip
def test_what_is_taken_reaches_the_engine(
    params: dict[str, Any], job: dict[str, Any], taken: dict[str, Any]
) -> None:
    """A value that a row writes down wins, also where it is the default."""
    assert checked(params, **job) == taken


def test_a_row_cannot_hide_the_marks_that_its_answer_is_read_by() -> None:
    """They are taken out of the text anyway; a row that wants to see them does."""
    for shows, skips, taken in ((True, True, False), (True, False, True), (False, True, True)):
        params = {"skip_special_tokens": skips}
        assert checked(dict(params), thinking=shows) == (params if taken else {})


# Fields of OpenAI's and vLLM's chats, and what becomes of them: taken, ignored, or refused unless
# the value asks for nothing. A report of another field is one more line.
@pytest.mark.parametrize("field", sorted(IGNORED))
def test_fields_that_change_no_answer_are_ignored(field: str) -> None:
    """Whatever their value; the table says why."""
    for value in ("x", True, 7, {"a": [1]}):
        assert checked({field: value, "top_p": 0.5}) == {"top_p": 0.5}
    assert IGNORED[field]
    assert field not in REFUSED


@pytest.mark.parametrize(
    ("field", "nothing", "something"),
    [
        ("structural_tag", "", "{}"),
        ("modalities", ["text"], ["text", "audio"]),
        ("audio", {}, {"voice": "alloy"}),
        ("web_search_options", {}, {"search_context_size": "low"}),
        ("reasoning_effort", "none", "high"),
        ("reasoning", {}, {"effort": "low"}),
        ("reasoning", {"effort": "none", "summary": None}, {"enabled": True}),
        ("verbosity", "medium", "low"),
        ("chat_template_kwargs", {"enable_thinking": False}, {"enable_thinking": True}),
        ("chat_template", "", "{{ messages }}"),
        ("documents", [], [{"text": "x"}]),
        ("add_generation_prompt", True, False),
        ("use_beam_search", False, True),
        ("best_of", 1, 2),
        ("length_penalty", 1.0, 0.5),
        ("return_token_ids", False, True),
        ("truncate_prompt_tokens", False, 100),
    ],
)
def test_fields_that_a_job_cannot_follow(field: str, nothing: Any, something: Any) -> None:
    """Refused by name, unless the value asks for nothing."""
    assert checked({field: nothing, "top_p": 0.5}) == {"top_p": 0.5}
    with pytest.raises(ValueError, match=f"^'{field}' cannot be set by a row: ") as caught:
        checked({field: something})
    assert repr(something)[:50] in str(caught.value)
    assert REFUSED[field] in str(caught.value)


@pytest.mark.parametrize(
    ("field", "on", "off"),
    [
        ("reasoning_effort", "low", "none"),
        ("reasoning_effort", "high", "none"),
        ("reasoning", {"effort": "minimal"}, {"effort": "none"}),
        ("reasoning", {"enabled": True}, {"enabled": False}),
        ("chat_template_kwargs", {"enable_thinking": True}, {"enable_thinking": False}),
    ],
)
def test_a_row_may_say_of_thinking_what_the_job_says(field: str, on: Any, off: Any) -> None:
    """Anything else is refused: the prompt and the columns are the job's."""
    for thinking, taken, refused in ((True, on, off), (False, off, on)):
        assert checked({field: taken}, thinking=thinking) == {}
        with pytest.raises(ValueError, match=f"^'{field}' .* the job's to say, by `thinking`"):
            checked({field: refused}, thinking=thinking)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
OPENAI = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
ANY = {"schema": {"type": "object"}}
# 40 lines that a check could go through in 2**40 ways.
WIDE: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"$ref": "#/$defs/0"}},
    "$defs": {
        **{str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)},
        "40": {"type": "string"},
    },
}
# Fields by which a row asks for a shape, and the same as a field of the spec's `answer`.
SHAPES: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "text", "json_schema": None}}, None),
    ({"response_format": {"type": "json_object"}}, ANY),
    ({"response_format": {"type": "json_object", "json_schema": None}}, ANY),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, {"schema": SCHEMA}),
    ({"response_format": OPENAI}, {"schema": SCHEMA}),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, {"schema": SCHEMA}),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": json.dumps(SCHEMA)}}},
     {"schema": SCHEMA}),
    ({"structured_outputs": {}}, None),
    ({"structured_outputs": {"json": None, "regex": "a+", "disable_fallback": True}},
     {"regex": "a+"}),
    ({"structured_outputs": {"json": SCHEMA}}, {"schema": SCHEMA}),
    ({"structured_outputs": {"json_object": True}}, ANY),
    ({"structured_outputs": {"choice": ["a", "b", "a"]}}, {"choice": ["a", "b"]}),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
    ({"guided_json": {}}, None),
    ({"guided_json": SCHEMA}, {"schema": SCHEMA}),
    ({"guided_json": json.dumps(SCHEMA)}, {"schema": SCHEMA}),
    ({"guided_json_object": False}, None),
    ({"guided_json_object": True}, ANY),
    ({"guided_choice": []}, None),
    ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
    ({"guided_regex": ""}, None),
    ({"guided_regex": "a+"}, {"regex": "a+"}),
    ({"guided_grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    # A struct of Parquet has the fields of all rows, and null where this row has no such field.
    ({"guided_json": {**SCHEMA, "properties": {"a": {"enum": [1, None], "type": None}, "b": None}}},
     {"schema": {**SCHEMA, "properties": {"a": {"enum": [1, None]}}}}),
    ({"guided_json": {"const": None}}, {"schema": {"const": None}}),
    ({"response_format": OPENAI, "guided_json": SCHEMA, "guided_decoding_backend": "xgrammar"},
     {"schema": SCHEMA}),
]  # fmt: skip


@pytest.mark.parametrize(("params", "shape"), SHAPES)
def test_the_shape_of_a_row_reaches_the_engine(
    params: dict[str, Any], shape: dict[str, Any] | None
) -> None:
    """All names for it become one; and the plan sees which rows bring one."""
    own = brought({**params, "top_p": 0.5}, engine="echo", answer={"rows": True})
    taken, form = own.sampling, own.form
    wanted = {} if shape is None else {STRUCTURE: structure_of(Answer.model_validate(shape))}
    assert taken == {"top_p": 0.5, **wanted}
    assert form == ({} if shape is None else {"answer": shape})
    assert asks_for_shape(params) == (shape is not None)
    assert params_from_json(json.loads(json.dumps(taken))) == taken


@pytest.mark.parametrize(("params", "shape"), [one for one in SHAPES if one[1] is not None])
def test_a_job_without_a_column_for_it_refuses_the_shape(
    params: dict[str, Any], shape: dict[str, Any]
) -> None:
    """And says what to set; a job with a shape of its own keeps the type of its column."""
    for answer in ({}, {"rows": False}):
        with pytest.raises(ValueError, match=r"no column .* set answer.rows: true"):
            checked(params, engine="echo", answer=answer)
    with pytest.raises(ValueError, match=r"the job for that of answer\.choice.*leave one"):
        checked(params, engine="echo", answer={"choice": ["a", "b"]})


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"response_format": "json"}, "'response_format': 'json' is no object"),
        ({"response_format": {"type": "xml"}}, "'response_format': its type 'xml' is none of"),
        ({"response_format": {"schema": SCHEMA}}, "'response_format': its type None is none of"),
        ({"response_format": {"type": "json_schema"}}, "no `json_schema` with a `schema`"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "no `json_schema` with a `schema`"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
         r"the schema \[1\] is no object"),
        ({"guided_json": "{"}, "'guided_json': the schema is not valid JSON"),
        ({"guided_json": True}, "'guided_json': the schema True is no object"),
        ({"guided_json_object": "yes"}, "'guided_json_object': json_object is 'yes', not true"),
        ({"guided_choice": "a"}, "'guided_choice': 'a' is no list of labels"),
        ({"guided_choice": ["a", ""]}, "is no list of labels"),
        ({"guided_regex": 7}, "'guided_regex': 7 is no text"),
        ({"structured_outputs": [1]}, r"'structured_outputs': \[1\] is no object"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "'json' and 'regex' are two"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "'structural_tag' is none of 'json'"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "'guided_choice' and 'guided_regex' ask"),
        ({"guided_json": json.loads('{"a":' * 900 + "1" + "}" * 900)}, "nested too deeply"),
        ({"guided_json": {"type": "nonsense"}}, "schema: .* is no valid JSON schema"),
        ({"guided_json": {"$ref": "https://example.org/x.json"}}, "outside of the schema"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "'uniqueItems'"),
        ({"guided_json": {"enum": ["x" * 2**18]}}, "bytes as JSON"),
        ({"guided_json": {"$ref": "#"}}, "no value fits"),
        ({"guided_json": WIDE}, "more than 5,000 objects when its references are followed"),
        ({"guided_regex": "("}, "regex: .*Python cannot read it"),
        ({"guided_regex": "(?=a)b"}, "regex: .*looks ahead"),
        ({"guided_grammar": "yes"}, "grammar: .*no rule `root ::= ...`"),
        ({"guided_regex": "a", "stop": "x"}, "'stop' could end or change an answer"),
        ({"guided_regex": "a", "ignore_eos": True}, "'ignore_eos' could end"),
        ({"guided_regex": "a", "allowed_token_ids": [3]}, "'allowed_token_ids' could end"),
    ],
)  # fmt: skip
def test_a_shape_that_is_none_is_refused(params: dict[str, Any], sentence: str) -> None:
    """By the row alone; such a row counts as one that brings a shape."""
    with pytest.raises(ValueError, match=sentence):
        checked(params, engine="echo", answer={"rows": True})
    assert asks_for_shape(params)


FUNCTION = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": {**FUNCTION, "strict": True, "description": None}}
NAMED = {"type": "function", "function": {"name": "weather"}}
ROWS = Tools(rows=True)
# Parameters about functions, and the same as the spec's part `tools`: the choice, one call at most.
TOOLS: list[tuple[dict[str, Any], str | dict[str, str], bool]] = [
    ({"tools": [TOOL]}, "auto", False),
    ({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}, "auto", False),
    ({"tools": [TOOL], "tool_choice": "none"}, "none", False),
    ({"tools": [TOOL], "tool_choice": "required"}, "required", False),
    ({"tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": False},
     {"name": "weather"}, True),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}},
     {"name": "weather"}, False),
    ({"functions": [FUNCTION]}, "auto", False),
    ({"functions": [FUNCTION], "function_call": {"name": "weather"}}, {"name": "weather"}, False),
    ({"tools": [FUNCTION], "functions": [], "function_call": "none"}, "none", False),
]  # fmt: skip


@pytest.mark.parametrize(("params", "choice", "one"), TOOLS)
def test_the_functions_of_a_row_are_shown_and_read(
    params: dict[str, Any], choice: Any, one: bool
) -> None:
    """Where each answer has to call, the engine is asked for calls."""
    own = brought({**params, "top_p": 0.5}, tools=ROWS)
    read = Tools.model_validate(own.form["tools"])
    assert read.functions == own.tools == (Tools(definitions=(FUNCTION,)).functions)
    assert json.loads(read.model_dump_json())["choice"] == choice
    assert own.form.get("one_call", False) == one
    assert own.tool_choice == (choice if isinstance(choice, str) else "required")
    assert own.enforced == read.forced == (STRUCTURE in own.sampling)
    if own.enforced:
        schema = json.loads(own.sampling[STRUCTURE]["json"])
        assert (schema["maxItems"] == 1) == (one or choice != "required")
    assert own.sampling["top_p"] == 0.5
    assert asks_for_tools(params)
    for job in (None, Tools(rows=False)):
        with pytest.raises(ValueError, match=r"no column for calls: set tools\.rows: true"):
            brought(params, tools=job)
    with pytest.raises(ValueError, match=r"those of tools\.definitions: leave one out"):
        brought(params, tools=Tools(definitions=(FUNCTION,)))


@pytest.mark.parametrize(
    ("params", "job", "sentence"),
    [
        ({"tools": {"a": 1}}, ROWS, "'tools': {'a': 1} is no list"),
        ({"tools": [{"type": "web_search"}]}, ROWS, "'tools': .*only functions can be called"),
        ({"tools": [{"type": "function"}]}, ROWS, "'tools': .*no object `function`"),
        ({"tools": [TOOL, TOOL]}, ROWS, "'tools': .*two functions are named 'weather'"),
        ({"functions": [{"name": "a b"}]}, ROWS, "'functions': .*the name 'a b'"),
        ({"tools": [TOOL], "functions": [FUNCTION]}, ROWS, "mean the same: leave one out"),
        ({"tools": [TOOL], "tool_choice": {"name": "other"}}, ROWS, "'other', which `definitions`"),
        ({"tools": [TOOL], "tool_choice": "any"}, ROWS, "'tool_choice': 'any' is none of 'auto'"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, ROWS, "none of 'auto'"),
        ({"tools": [TOOL], "parallel_tool_calls": 1}, ROWS, "1 is neither true nor false"),
        (
            {"tools": json.loads("[" * 900 + "1" + "]" * 900)},
            ROWS,
            "'tools'.* cannot be read|'tools'",
        ),
        ({"functions": [{"name": "f", "parameters": WIDE}]}, ROWS, "more than 5,000 objects"),
        (
            {"functions": [{"name": "f", "parameters": {"pattern": "(?=a)b"}}]},
            ROWS,
            r"the pattern '\(\?=a\)b', which cannot be checked in a time",
        ),
        (
            {"functions": [{"name": "f", "parameters": {"patternProperties": {"a": {}}}}]},
            ROWS,
            "patternProperties",
        ),
        ({"tool_choice": "required"}, ROWS, "'tool_choice' is 'required', and the row has no"),
        ({"tool_choice": NAMED}, None, "and the row has no 'tools'"),
        ({"tool_choice": "none"}, Tools(definitions=(FUNCTION,)), "tools.choice 'auto'"),
        (
            {"guided_regex": "a"},
            Tools(definitions=(FUNCTION,), choice="required"),
            "every answer of this job is a call, by tools.choice",
        ),
        ({"tools": [TOOL], "guided_regex": "a"}, ROWS, "which no call has: leave one out"),
        ({"tools": [TOOL], "tool_choice": "required", "stop": "x"}, ROWS, "'stop' could end"),
    ],
)
def test_functions_that_cannot_be_called_are_refused(
    params: dict[str, Any], job: Tools | None, sentence: str
) -> None:
    """By the row alone, before an engine is asked."""
    with pytest.raises(ValueError, match=sentence):
        brought(params, tools=job, answer={"rows": True})


@pytest.mark.parametrize(
    ("params", "job"),
    [
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, None),
        ({"tools": [], "functions": [], "function_call": "none"}, ROWS),
        ({"tool_choice": "auto"}, Tools(definitions=(FUNCTION,))),
        ({"tool_choice": NAMED}, Tools(definitions=(FUNCTION,), choice=NamedTool(name="weather"))),
    ],
)
def test_a_choice_without_functions_asks_for_nothing_new(
    params: dict[str, Any], job: Tools | None
) -> None:
    """Or for the job's own choice."""
    assert brought(params, tools=job) == Own({}, {})
    assert not asks_for_tools(params)


def test_a_row_may_have_functions_that_it_must_not_call_and_a_shape() -> None:
    """The functions are shown, and the answer has the shape."""
    params = {"tools": [TOOL], "tool_choice": "none", "guided_choice": ["a"]}
    own = brought(params, tools=ROWS, answer={"rows": True}, engine="echo")
    assert own.sampling == {STRUCTURE: {"choice": ["a"]}}
    assert own.form.keys() == {"answer", "tools"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [*Sampling.model_fields, *IGNORED, *REFUSED, *SHAPE_FIELDS, *TOOL_FIELDS,
     "max_completion_tokens", "top_logprobs", "vllm_xargs", "continue_final_message"]
) | st.text(max_size=9)  # fmt: skip


@settings(max_examples=examples(150))
@given(params=st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_parameters_are_taken_or_refused(params: dict[str, Any]) -> None:
    """A row brings what it likes: fields of sampling come out, or one sentence."""
    with contextlib.suppress(ValueError):
        taken = checked(params, engine="echo", logprobs=5, answer={"rows": True}, tools=ROWS)
        assert taken.keys() <= (Sampling.model_fields.keys() - {"n"}) | {STRUCTURE}


def test_the_docs_name_each_field() -> None:
    """Ignored and refused fields each have a line in the table of docs/inputs.md."""
    page = Path(__file__).parents[2].joinpath("docs", "inputs.md").read_text(encoding="utf-8")
    table = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    for word, wanted in (
        ("ignored: they", IGNORED),
        ("the value asks for nothing", REFUSED),
        ("shape of the answer", SHAPE_FIELDS),
        ("functions that the model may call", TOOL_FIELDS),
    ):
        (fields,) = (fields for fields, becomes in table if word in becomes)
        assert re.findall(r"`(\w+)`", fields) == list(wanted)


TAKEN: dict[str, Any] = {
    "max_tokens": 5, "min_tokens": 2, "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1,
    "seed": 4, "stop": ["a"], "stop_token_ids": [5], "ignore_eos": True,
    "include_stop_str_in_output": True, "presence_penalty": 1.0, "frequency_penalty": 1.0,
    "repetition_penalty": 1.5, "logprobs": 2, "logit_bias": {5: 1.0}, "allowed_token_ids": [5],
    "bad_words": ["x"], "skip_special_tokens": False, "spaces_between_special_tokens": False,
    "repetition_detection": {"max_pattern_size": 3, "min_pattern_size": 0, "min_count": 2},
    "thinking_token_budget": 3, "extra_args": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(Sampling.model_fields.keys() - {"n"}))
def test_each_field_of_sampling_reaches_the_engine(field: str) -> None:
    """Every parameter that a row may set comes out as it went in (a new field needs a value)."""
    own = {field: TAKEN[field]}
    assert checked(own, engine="echo", logprobs=5) == own
    assert params_from_json(json.loads(json.dumps(own))) == own


def test_token_ids_stay_numbers_on_their_way_through_json() -> None:
    """JSON has only text as keys, and vLLM takes only numbers."""
    own = {
        "logit_bias": {"5": 1, "7": -2.5},
        "repetition_detection": {"max_pattern_size": 3, "min_count": 2},
        "extra_args": {"plugin": {"7": [1]}},
        "stop": ["a", "b"],
    }
    taken = checked(own)
    assert taken["logit_bias"] == {5: 1.0, 7: -2.5}
    assert params_from_json(json.loads(json.dumps(taken))) == taken


def test_a_dry_run_refuses_token_ids_of_no_token() -> None:
    """The rules that need no engine hold for each engine."""
    with pytest.raises(ValueError, match="logit_bias"):
        checked({"logit_bias": {VOCAB: 1}}, engine="echo")
    assert checked({"thinking_token_budget": 3}, engine="echo") == {"thinking_token_budget": 3}
