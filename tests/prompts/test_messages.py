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
        ([USER, {**ANSWER, "tool_calls": [{}]}, USER], "message 1 has tool calls"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{}]}], "tool calls"),
        ([USER, {**ANSWER, "function_call": {"name": "f"}}, USER], "message 1 has function call"),
        *(([USER, {"role": role, "content": "7"}], f"'{role}': no calls of tools")
          for role in sorted(TOOL_ROLES)),
        ([HUMAN, {"from": "function_call", "value": "f()"}], "'function_call': no calls of tools"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_answered(conversation: Any, said: str) -> None:
    """Each is refused with `bad_messages` and what is wrong."""
    with pytest.raises(RowProblem, match=said) as caught:
        read_conversation(conversation)
    assert caught.value.code == "bad_messages"


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
