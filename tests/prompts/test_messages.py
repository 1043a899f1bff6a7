"""Conversations as people write them: answered where the model can, else one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.prompts.chat import ChatTemplate, default_chat_template
from gemma_batch.prompts.messages import ROLES, TOOL_ROLES, read_conversation
from gemma_batch.prompts.template import RowProblem
from gemma_batch.prompts.tokens import Tokenizer

USER = {"role": "user", "content": "U"}
ANSWER = {"role": "assistant", "content": "A"}
HUMAN = {"from": "human", "value": "U"}
PICTURE = {"type": "image_url", "image_url": {"url": "http://x"}}


RESULT = {"role": "tool", "content": "7"}


def call(name: Any, arguments: Any = "{}", id: str | None = "c1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def called(*calls: Any, content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def part(text: Any, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


@pytest.mark.parametrize(
    ("conversation", "wanted"),
    [
        ([USER], "user:U"),
        ([{"role": "developer", "content": "D"}, USER], "system:D|user:U"),
        ([USER, USER], "user:U\n\nU"),
        ([USER, {"role": "model", "content": "A"}, USER], "user:U|assistant:A|user:U"),
        ([USER, {**ANSWER, "tool_calls": [], "function_call": None}, USER],
         "user:U|assistant:A|user:U"),
        ([{**USER, "name": "Ann", "weight": 1}], "user:U"),
        ([{"role": "User ", "content": "U"}], "user:U"),
        ([{"role": "user", "content": [part("a"), part("b", "input_text"), "c"]}], "user:a\nb\nc"),
        ([USER, {"role": "assistant", "content": [part("a", "output_text")]}, USER],
         "user:U|assistant:a|user:U"),
        # A Parquet struct has every field of every part.
        ([{"role": "user", "content": [{**part("a"), "image_url": None}]}], "user:a"),
        ([HUMAN, {"from": "gpt", "value": "A"}, HUMAN], "user:U|assistant:A|user:U"),
        ([{"from": "system", "value": "S"}, HUMAN], "system:S|user:U"),
        ([{"role": None, "content": None, **HUMAN}], "user:U"),
        ([{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}], "user:a\nb"),
        ([USER, {"role": "model", "parts": [{"text": "A", "inlineData": None}]}, USER],
         "user:U|assistant:A|user:U"),
        ([{"role": "user", "content": "U", "value": "U"}], "user:U"),
        ((USER,), "user:U"),
    ],
)  # fmt: skip
def test_conversations_that_are_understood(conversation: Any, wanted: str) -> None:
    """As lists and as JSON text, by any of the usual names."""
    for value in (conversation, json.dumps(conversation)):
        found = read_conversation(value)
        assert "|".join(f"{turn['role']}:{turn['content']}" for turn in found) == wanted


@pytest.mark.parametrize(
    ("conversation", "said"),
    [
        ([], "empty"),
        (" ", "an empty text"),
        ("[", "not valid JSON"),
        ("What is it?", "prompt.user"),
        ("[" * 100_000, "JSON"),
        ('{"role": "user"}', "not dict"),
        ({"messages": [USER]}, "not dict"),
        (7, "int"),
        (["hi"], "message 0 is str"),
        ([{"role": "robot", "content": "x"}], "'robot'"),
        ([{"role": None, "content": "x"}], "None"),
        ([{"role": {"a": 1}, "content": "x"}], "{'a': 1}"),
        ([{"content": "x"}], "None"),
        ([{**USER, "from": "gpt"}], "both 'role' and 'from', and they differ"),
        ([{**USER, "value": "V"}], "both 'content' and 'value', and they differ"),
        ([{"role": "user", "content": None}], "no text"),
        ([{"role": "user"}], "no text"),
        ([{"role": "user", "content": []}], "no text"),
        ([{"role": "user", "content": {"text": "x"}}], "no text"),
        ([{"role": "user", "content": [PICTURE]}], "'image_url'; only text parts"),
        ([{"role": "user", "content": [part("a"), {"type": "input_audio"}]}], "'input_audio'"),
        ([{"role": "user", "content": [{"type": "image", "text": None}]}], "'image'"),
        ([{"role": "user", "content": [part(3)]}], "'text'"),
        ([{"role": "user", "parts": [{"text": "a"}, {"inlineData": {}}]}], "'inlineData'"),
        ([{"role": "user", "parts": [{"text": "a", "fileData": {}}]}], "'text/fileData'"),
        ([USER, ANSWER], "the last message is by 'assistant'.* prompt.last_answer"),
        ([HUMAN, {"from": "gpt", "value": "A"}], "the last message is by 'assistant'"),
        ([{"role": "system", "content": "x"}], "last message is by 'system'"),
        ([USER, {"role": "system", "content": "x"}, USER], "first"),
        *(([USER, {"role": role, "content": "7"}], f"'{role}': give calls as `tool_calls`")
          for role in sorted(TOOL_ROLES)),
        ([HUMAN, {"from": "function_call", "value": "f()"}], "'function_call': give calls as"),
        ([USER, called({})], "message 1 has a call without a `function`"),
        ([USER, called("f")], "a call without a `function`"),
        ([USER, {**ANSWER, "tool_calls": "f()"}], "tool_calls is str, not a list"),
        ([USER, called(call("<turn|>"))], "a call of '<turn|>', which is no name of a function"),
        ([USER, called(call(None))], "a call of None"),
        ([USER, called(call("f", "{x"))], "the arguments of 'f' are not valid JSON"),
        ([USER, called(call("f", "[1]"))], "the arguments of 'f' are no object"),
        ([USER, called(call("f", '{"a": ' + "[" * 50 + "]" * 50 + "}"))], "nested deeper than 32"),
        ([USER, {**called(call("f")), "role": "user"}], "by 'user', not by the assistant"),
        ([USER, called(call("f"))], "ends with a call of a function: its result has to follow"),
        ([USER, RESULT], "message 1 is a result, and no call without a result"),
        ([USER, ANSWER, RESULT], "message 2 is a result, and no call without a result"),
        ([USER, called(call("f")), RESULT, RESULT], "message 3 is a result, and no call"),
        ([USER, called(call("f")), {**RESULT, "tool_call_id": "x"}], "with tool_call_id 'x'"),
        ([USER, called(call("f")), {**RESULT, "name": "g"}], "a result with the name 'g'"),
        ([USER, called(call("f")), {**RESULT, "content": None}], "message 2 has no text"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_answered(conversation: Any, said: str) -> None:
    """Each is refused with `bad_messages` and what is wrong."""
    with pytest.raises(RowProblem, match=said) as caught:
        read_conversation(conversation)
    assert caught.value.code == "bad_messages"


F = {"name": "f", "arguments": {}}
G = {"name": "g", "arguments": {"x": [1, "é"]}}


@pytest.mark.parametrize(
    ("given", "calls", "results"),
    [
        ([called(call("f")), RESULT], [F], [("f", "7")]),
        ([called(call("f")), {**RESULT, "role": "function", "name": "f"}], [F], [("f", "7")]),
        ([called(call("f", None)), {**RESULT, "name": "f"}], [F], [("f", "7")]),
        ([called(call("f", "")), {**RESULT, "tool_call_id": "c1"}], [F], [("f", "7")]),
        ([called(call("g", '{"x": [1, "é"]}'), content="I look."), RESULT], [G], [("g", "7")]),
        ([called(call("g", {"x": [1, "é"]})), RESULT], [G], [("g", "7")]),
        ([{**ANSWER, "function_call": {"name": "f", "arguments": "{}"}}, RESULT], [F],
         [("f", "7")]),
        # By the id of the call, not by their order.
        ([called(call("f"), call("g", '{"x": [1, "é"]}', "c2")), {**RESULT, "tool_call_id": "c2"},
          {**RESULT, "tool_call_id": "c1", "content": [part("8")]}], [F, G],
         [("g", "7"), ("f", "8")]),
        ([called(call("f", id=None), call("f", id=None)), RESULT, RESULT], [F, F],
         [("f", "7"), ("f", "7")]),
        ([called(call("f")), USER], [F], []),
    ],
)  # fmt: skip
def test_calls_and_their_results(given: Any, calls: Any, results: Any) -> None:
    """In OpenAI's form: arguments as a mapping, results with the name of their function."""
    found = read_conversation([USER, *given])
    assert [one for turn in found for one in turn.get("calls", ())] == calls
    assert [(t["name"], t["content"]) for t in found if t["role"] == "tool"] == results
    assert found[1]["content"] == (given[0]["content"] or "")
    assert read_conversation(json.dumps([USER, *given])) == found


def test_arguments_that_no_text_can_hold() -> None:
    """As such a text in a message."""
    with pytest.raises(RowProblem, match="surrogate") as caught:
        read_conversation([USER, called(call("f", '{"a": ["\\ud800"]}')), RESULT])
    assert caught.value.code == "bad_value"


def test_thoughts_of_earlier_answers_are_left_out() -> None:
    """The model is not shown them again."""
    thought = "<|channel>thought\nHm.\n<channel|>"
    found = read_conversation([USER, {**ANSWER, "content": f"{thought}A {thought}B"}, USER])
    assert [turn["content"] for turn in found] == ["U", "A B", "U"]


@pytest.mark.parametrize(
    ("conversation", "wanted"),
    [
        ([USER, ANSWER], "user:U"),
        ([USER, ANSWER, ANSWER], "user:U"),
        ([USER, ANSWER, USER], "user:U|assistant:A|user:U"),
        ([HUMAN, {"from": "gpt", "value": "A"}], "user:U"),
        ([ANSWER], "the conversation is empty"),
        ([{"role": "system", "content": "S"}, ANSWER], "the last message is by 'system'"),
    ],
)
def test_an_answer_that_is_there_is_left_out_where_that_is_asked_for(
    conversation: Any, wanted: str
) -> None:
    """Data for training end with an answer."""
    try:
        found = read_conversation(conversation, last_answer="drop")
        said = "|".join(f"{turn['role']}:{turn['content']}" for turn in found)
    except RowProblem as problem:
        said = problem.message
    assert said.startswith(wanted)
    assert said == wanted or "follow" in said


def test_no_role_is_both_answered_and_refused() -> None:
    assert not ROLES.keys() & TOOL_ROLES


@pytest.mark.parametrize("start", ["A", " A  ", "[1,\n 2,"])
def test_an_open_answer_ends_the_prompt_as_transformers_has_it(
    tokenizer: Tokenizer, folder: Path, start: str
) -> None:
    """The text ends where the assistant's message ends, so that the model writes on there."""
    transformers = pytest.importorskip("transformers")
    talk = [{"role": "system", "content": "S"}, USER, {"role": "assistant", "content": start}]
    ours = tokenizer.chat.render(
        read_conversation(talk, last_answer="continue"), continue_final=True
    )
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        talk, tokenize=False, continue_final_message=True
    )
    assert ours == theirs.rstrip() == tokenizer.chat.render(talk[:-1]) + start.strip()


def test_an_open_answer_without_a_chat_template() -> None:
    """Plain text ends with the last message anyway."""
    assert ChatTemplate(None).render([USER, ANSWER], continue_final=True) == "U\n\nA"


def test_an_open_answer_that_the_template_hides() -> None:
    """It would be lost without a word."""
    chat = ChatTemplate("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(RowProblem, match="does not show the last message"):
        chat.render([USER, ANSWER], continue_final=True)


@pytest.mark.parametrize("generation_", ["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"])
def test_an_answer_can_be_continued_in_each_generation(generation_: str) -> None:
    text = default_chat_template(generation_).render([USER, ANSWER], continue_final=True)
    assert text.endswith("model\nA")
