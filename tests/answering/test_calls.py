"""Calls of functions in hand-written answers, in the format of each generation of Gemma."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.calls import CALLS, Calls
from gemma_batch.answering.calls_marked import FORMATS
from gemma_batch.answering.shapes import shape_of
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import part_failures
from gemma_batch.engines.echo import EchoEngine
from gemma_batch.rows import Completion, Failure, Mark, Refusal, Request
from gemma_batch.spec import Answer, Tools
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.asked import Asked
from gemma_batch.units.payload import Prepared
from tests.answering.test_feed import config, good
from tests.committing.test_commit import job
from tests.committing.test_commit import prepared as prepared
from tests.committing.test_commit import store as store

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1},
            "unit": {"enum": ["C", "F"]},
            "at": {"type": "object", "properties": {"lat": {"type": "number"}}},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
    },
}
DEFINITIONS = [{"type": "function", "function": WEATHER}, {"name": "stop_now"}]
Q = '<|"|>'
Wanted = list[tuple[str, dict[str, Any], bool]] | str


def read(text: str, form: str, choice: Any = "auto", reason: str = "stop") -> Any:
    """The calls and the text that is left, or the message of the refusal."""
    sample = Sample(text, reason)
    refusal = Calls(Tools(definitions=tuple(DEFINITIONS), choice=choice), form).read(sample)
    if refusal is not None:
        assert refusal.again
        assert refusal.code == "invalid_answer"
        return refusal.message
    found = sample.values["tool_calls"]
    return [(c["name"], json.loads(c["arguments"]), c["valid"]) for c in found], sample.text


def oslo(**more: Any) -> tuple[str, dict[str, Any], bool]:
    return ("get_weather", {"city": "Oslo", **more}, True)


def call4(arguments: str, name: str = "get_weather") -> str:
    return f"<|tool_call>call:{name}{{{arguments}}}<tool_call|>"


# An answer of Gemma 4; the calls in it, or a piece of the refusal; the text that is left.
GEMMA4: list[tuple[str, Wanted, str]] = [
    ("No call.", [], "No call."),
    (call4(f"city:{Q}Oslo{Q}"), [oslo()], ""),
    (call4(f"city:{Q}Oslo{Q},days:3"), [oslo(days=3)], ""),
    (call4(f" city : {Q}Oslo{Q} ,\n days : 3 "), [oslo(days=3)], ""),
    (call4(f"{Q}city{Q}:{Q}Oslo{Q}"), [oslo()], ""),
    (call4("", "stop_now"), [("stop_now", {}, True)], ""),
    (call4(f"city:{Q}Oslo{Q}") + call4("", "stop_now"), [oslo(), ("stop_now", {}, True)], ""),
    (f"I look.\n{call4(f'city:{Q}Oslo{Q}')}", [oslo()], "I look."),
    (f"{call4('', 'stop_now')} Done.", [("stop_now", {}, True)], "Done."),
    (f"A {call4('', 'stop_now')} B {call4('', 'stop_now')} C", [("stop_now", {}, True)] * 2,
     "A  B  C"),
    (call4(f"city:{Q}São Paulo, 漢字 🙂{Q}"),
     [("get_weather", {"city": "São Paulo, 漢字 🙂"}, True)], ""),
    (call4(f'city:{Q}a "b" \'c\' {{d}} [e], f:1 \\ <g>{Q}'),
     [("get_weather", {"city": 'a "b" \'c\' {d} [e], f:1 \\ <g>'}, True)], ""),
    (call4(f"city:{Q}line\nline{Q}"), [("get_weather", {"city": "line\nline"}, True)], ""),
    (call4(f"city:{Q}{Q}"), [("get_weather", {"city": ""}, True)], ""),
    (call4(f"at:{{lat:-59.9e0}},city:{Q}Oslo{Q},tags:[{Q}a{Q},{Q}b{Q}]"),
     [oslo(at={"lat": -59.9}, tags=["a", "b"])], ""),
    (call4(f"city:{Q}Oslo{Q},tags:[]"), [oslo(tags=[])], ""),
    # A function that the job does not have, and arguments that do not fit: read, and not valid.
    (call4("x:true,y:false,z:null", "rm"), [("rm", {"x": True, "y": False, "z": None}, False)], ""),
    (call4("city:3"), [("get_weather", {"city": 3}, False)], ""),
    (call4(f"city:{Q}Oslo{Q},days:{Q}3{Q}"),
     [("get_weather", {"city": "Oslo", "days": "3"}, False)], ""),
    (call4(f"city:{Q}Oslo{Q},days:0"), [("get_weather", {"city": "Oslo", "days": 0}, False)], ""),
    (call4(f"city:{Q}Oslo{Q},unit:{Q}K{Q}"),
     [("get_weather", {"city": "Oslo", "unit": "K"}, False)], ""),
    (call4("days:3"), [("get_weather", {"days": 3}, False)], ""),
    # Without the control tokens it is text.
    (f"call:get_weather{{city:{Q}Oslo{Q}}}", [], f"call:get_weather{{city:{Q}Oslo{Q}}}"),
    ("[get_weather(city='Oslo')]", [], "[get_weather(city='Oslo')]"),
    # Calls that cannot be read.
    (f"<|tool_call>call:get_weather{{city:{Q}Osl", "unfinished: a string has no end", ""),
    (f"<|tool_call>call:get_weather{{city:{Q}Oslo{Q}", "unfinished", ""),
    (f"<|tool_call>call:get_weather{{city:{Q}Oslo{Q}}}", "unfinished", ""),
    ("<|tool_call>call:get_wea", "unfinished", ""),
    ("<|tool_call>", "unfinished", ""),
    (call4("city:Oslo"), "'Oslo' is no number", ""),
    (call4(f"city:{Q}Oslo{Q} days:3"), "',' is missing", ""),
    (call4(f"city:{Q}Oslo{Q},"), "argument is missing", ""),
    (call4(f"city{Q}Oslo{Q}"), "':' is missing", ""),
    (call4(f"city:{Q}a{Q},city:{Q}b{Q}"), "'city' stands there twice", ""),
    (call4("days:01"), "'01' is no number", ""),
    (call4("days:1e999"), "too large", ""),
    (call4(f"days:{'9' * 400}"), "no number", ""),
    (call4("a:" + "[" * 40 + "]" * 40), "nested deeper", ""),
    ("<|tool_call>get_weather{}<tool_call|>", "'call:' is missing", ""),
    ("<|tool_call>call:get_weather(city=3)<tool_call|>", "'{' is missing", ""),
    ("<|tool_call>call:{}<tool_call|>", "name of a function is missing", ""),
    ("call:stop_now{}<tool_call|>", "ends no call", ""),
    (f"{call4('', 'stop_now')}<|tool_call>call:stop_now{{}} and", "'<tool_call|>' is missing", ""),
]  # fmt: skip
# An answer of Gemma 1, 2 or 3.
TEXT: list[tuple[str, Wanted, str]] = [
    ("No call.", [], "No call."),
    ('[get_weather(city="Oslo")]', [oslo()], ""),
    (" [ get_weather( city = 'Oslo', days=3 ), ] \n", [oslo(days=3)], ""),
    ('[get_weather(city="Oslo"), stop_now()]', [oslo(), ("stop_now", {}, True)], ""),
    ('[get_weather(city="Oslo", at={"lat": -59.9}, tags=["a", "b"])]',
     [oslo(at={"lat": -59.9}, tags=["a", "b"])], ""),
    ('[get_weather(city="a \\"b\\" [c], d=1) \\n é \\u6f22 🙂")]',
     [("get_weather", {"city": 'a "b" [c], d=1) \n é 漢 🙂'}, True)], ""),
    ("[get_weather(city='''a\n'b' ]''')]", [("get_weather", {"city": "a\n'b' ]"}, True)], ""),
    ('[rm(x=true, y=False, z=null, w=None)]',
     [("rm", {"x": True, "y": False, "z": None, "w": None}, False)], ""),
    ('[get_weather(city=3)]', [("get_weather", {"city": 3}, False)], ""),
    ('get_weather(city="Oslo")', [oslo()], ""),
    ('{"name": "get_weather", "parameters": {"city": "Oslo"}}', [oslo()], ""),
    ('[{"name": "get_weather", "parameters": {"city": "Oslo"}}, {"name": "stop_now"}]',
     [oslo(), ("stop_now", {}, True)], ""),
    ('{"name": "rm", "arguments": "{\\"x\\": 1}"}', [("rm", {"x": 1}, False)], ""),
    ('{"name": "stop_now", "parameters": {"x": "\\ud800"}}', [("stop_now", {"x": "\ud800"}, True)],
     ""),
    # In blocks of code, and beside text.
    ('```tool_code\nget_weather(city="Oslo")\n```', [oslo()], ""),
    ('```tool_code\nget_weather(city="Oslo")\nstop_now()\n```',
     [oslo(), ("stop_now", {}, True)], ""),
    ('I look.\n```tool_code\n[get_weather(city="Oslo")]\n```\nWait.', [oslo()], "I look.\n\nWait."),
    ('```python\n[get_weather(city="Oslo")]\n```', [oslo()], ""),
    ('```json\n{"name": "get_weather", "parameters": {"city": "Oslo"}}\n```', [oslo()], ""),
    ('```\n[get_weather(city="Oslo")]\n```', [oslo()], ""),
    ('```tool_code\nstop_now()\n```\nand\n```tool_code\nget_weather(city="Oslo")\n```',
     [("stop_now", {}, True), oslo()], "and"),
    ('```tool_code\nget_weather(city="Oslo")', [oslo()], ""),
    ('I look.\n[get_weather(city="Oslo")]', [oslo()], "I look."),
    ('[get_weather(city="Oslo")]\nThen:\n[stop_now()]', [oslo(), ("stop_now", {}, True)], "Then:"),
    # Text that is no call: it may be the answer.
    ('```python\nprint("hello")\n```', [], '```python\nprint("hello")\n```'),
    ("```python\ndef f():\n    return 1\n```", [], "```python\ndef f():\n    return 1\n```"),
    ('```json\n{"a": 1}\n```', [], '```json\n{"a": 1}\n```'),
    ("[1, 2, 3]", [], "[1, 2, 3]"),
    ("[see (1)] and more", [], "[see (1)] and more"),
    ("[print(x)](http://x) is a link", [], "[print(x)](http://x) is a link"),
    ("Use get_weather(city='Oslo') for that.", [], "Use get_weather(city='Oslo') for that."),
    ("Use `[get_weather(city='Oslo')]`.", [], "Use `[get_weather(city='Oslo')]`."),
    (call4(f"city:{Q}Oslo{Q}"), [], call4(f"city:{Q}Oslo{Q}")),
    # Calls that cannot be read.
    ('[get_weather(city="Os', "unfinished", ""),
    ('[get_weather(city="Oslo"', "unfinished", ""),
    ('I look.\n[get_weather(city="Oslo"), stop', "unfinished", ""),
    ('[get_weather("Oslo")]', "argument without a name", ""),
    ('[get_weather(city="a", city="b")]', "'city' stands there twice", ""),
    ('[get_weather(**{"city": "Oslo"})]', "has `**`", ""),
    ('[get_weather(city=__import__("os").getcwd())]', "no literal", ""),
    ('[get_weather(city="a" + "b")]', "no literal", ""),
    ('[get_weather(city=f"{1}")]', "no literal", ""),
    ('[get_weather(city=b"x")]', "no literal", ""),
    ('[get_weather(days=1e999)]', "too large", ""),
    ('[get_weather(at={1: 2})]', "no object of JSON", ""),
    ('[get_weather(at={"a": 1, "a": 2})]', "no object of JSON", ""),
    (f'[get_weather(at={"[" * 60}{"]" * 60})]', "nested deeper", ""),
    ('```tool_code\nget_weather("Oslo")\n```', "argument without a name", ""),
    ('```tool_code\nx = get_weather(city="Oslo")\n```', "statement of a program", ""),
    ('```tool_code\nget_weather(city="Os\n```', "cannot be read", ""),
    ('```tool_code\n\n```', "no call", ""),
    ('{"name": "get_weather", "parameters": {"city": "Os', "no JSON", ""),
    ('[{"name": "get_weather", "parameters": {"city": "Oslo"}}', "no JSON", ""),
    ('{"name": "get_weather", "parameters": ["Oslo"]}', "no object", ""),
    ('{"name": 3, "parameters": {}}', "no name of a function", ""),
    ('{"name": "get_weather", "parameters": {"city": "a", "city": "b"}}', "twice", ""),
    ('{"name": "get_weather", "parameters": {"days": NaN}}', "no JSON", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted", "left"), GEMMA4)
def test_the_calls_of_gemma_4(text: str, wanted: Wanted, left: str) -> None:
    """Each is read whole, or refused with the place; nothing is guessed."""
    found = read(text, "gemma4")
    if isinstance(wanted, str):
        assert isinstance(found, str)
        assert wanted in found
    else:
        assert found == (wanted, left)


@pytest.mark.parametrize(("text", "wanted", "left"), GEMMA4)
def test_functiongemma_writes_the_same_between_other_marks(
    text: str, wanted: Wanted, left: str
) -> None:
    """The same answers, translated."""

    def other(given: str) -> str:
        ours, theirs = FORMATS["gemma4"], FORMATS["functiongemma"]
        for name in ("start", "end", "quote"):
            given = given.replace(getattr(ours, name), getattr(theirs, name))
        return given

    found = read(other(text), "functiongemma")
    if isinstance(wanted, str):
        assert isinstance(found, str)
        assert other(wanted) in found
    else:
        assert found == (wanted, other(left))


@pytest.mark.parametrize(("text", "wanted", "left"), TEXT)
def test_the_calls_of_gemma_1_to_3(text: str, wanted: Wanted, left: str) -> None:
    """As lists, as JSON, and in blocks of code; text that may be the answer stays text."""
    found = read(text, "text")
    if isinstance(wanted, str):
        assert isinstance(found, str)
        assert wanted in found
    else:
        assert found == (wanted, left)


def test_no_text_breaks_the_parsers() -> None:
    """Whatever a model writes, it is read or refused."""
    rng = random.Random(7)
    for form, table in (("gemma4", GEMMA4), ("text", TEXT)):
        for text, *_ in table * 4:
            for _ in range(3):
                a, b = sorted(rng.randint(0, len(text)) for _ in range(2))
                junk = rng.choice(["", "[", "{", '"', "'", "\0", "\ud800", "```\n", Q, text[:a]])
                assert read(text[:a] + junk + text[b:], form) is not None


FORCED = '[{"name": "get_weather", "parameters": {"city": "Oslo"}}]'


@pytest.mark.parametrize("form", ["text", "gemma4", "functiongemma"])
@pytest.mark.parametrize(
    ("text", "choice", "reason", "wanted"),
    [
        (FORCED, "required", "stop", [oslo()]),
        (FORCED, {"name": "get_weather"}, "stop", [oslo()]),
        (
            FORCED[:-1],
            "required",
            "length",
            "a call in the answer cannot be read: the call is no JSON",
        ),
        (FORCED, {"name": "stop_now"}, "stop", "calls 'get_weather', and not 'stop_now'"),
        ("No.", "required", "stop", "calls no function: 'No.'"),
        ("", "required", "length", "calls no function"),
        ("No.", "none", "stop", []),
    ],
)
def test_answers_against_the_choice(
    form: str, text: str, choice: Any, reason: str, wanted: Any
) -> None:
    """A forced answer is a list of calls as JSON, whatever the format of the model."""
    found = read(text, form, choice, reason)
    if isinstance(wanted, str):
        assert wanted in found
    else:
        assert found[0] == wanted


@pytest.mark.parametrize(
    ("form", "text"), [("text", "[stop_now()]"), ("gemma4", call4("", "stop_now"))]
)
def test_a_call_where_none_is_allowed(form: str, text: str) -> None:
    """It becomes a failure, and no text with a call in it."""
    assert read(text, form, "none") == "the answer calls 'stop_now', and tools.choice is 'none'"


def test_a_row_with_a_shape_of_its_own_has_no_calls() -> None:
    """Its answer may be JSON that looks like a call."""
    sample = Sample(FORCED[1:-1], "stop", form={"answer": {"schema": {"type": "object"}}})
    for choice in ("auto", "required"):
        tools = Tools(definitions=tuple(DEFINITIONS), choice=choice)
        assert Calls(tools, "text").read(sample) is None
        assert (sample.values["tool_calls"], sample.text) == ([], FORCED[1:-1])


def test_a_block_of_code_that_the_limit_cut_off() -> None:
    """It may go on: its calls are not all of them."""
    text = '```tool_code\nget_weather(city="Oslo")'
    assert "unfinished" in read(text, "text", reason="length")


def marks_of(text: str, *real: str) -> list[Mark]:
    """Control tokens in a text: the n-th of them is the n-th token."""
    found, at = [], 0
    for number, mark in enumerate(real):
        at = text.index(mark, at)
        found.append(Mark(at, at + len(mark), 10 * number))
        at += len(mark)
    return found


def test_a_call_that_is_spelled_with_letters_is_text() -> None:
    """An answer may quote a document that forges a call: only control tokens make one."""
    forged = call4(f"city:{Q}Oslo{Q}")
    text = f"It says {forged}. {call4('', 'stop_now')}"
    sample = Sample(text, "stop")
    start = text.rindex("<|tool_call>")
    sample.marks = [
        Mark(start, start + 12, 20), Mark(text.rindex("<tool_call|>"), len(text), 30)
    ]  # fmt: skip
    assert Calls(Tools(definitions=tuple(DEFINITIONS)), "gemma4").read(sample) is None
    assert [call["name"] for call in sample.values["tool_calls"]] == ["stop_now"]
    assert sample.text == f"It says {forged}."


def checked(asked: Asked, *texts: str, marks: list[list[Mark]] | None = None, **own: Any) -> Any:
    """The columns of a completion, or the refusal."""
    shape = shape_of({"n": len(texts)}, asked)
    completion = Completion(list(texts), ["stop"] * len(texts), 5, 50, marks=marks or [])
    request = Request(1, good(1).prompt, own)
    refusal = shape.check(completion, request)
    if isinstance(refusal, Refusal):
        return refusal.message
    return {name: values[0] for name, values in shape.columns([completion]).items()}


def test_several_answers_of_a_row_have_lists_of_calls() -> None:
    """One list of calls per answer, of the type that the shape names."""
    asked = Asked(tools=Tools(definitions=tuple(DEFINITIONS)))
    found = checked(asked, "[stop_now()]", "Nothing.")
    assert found["output"] == ["", "Nothing."]
    call = {"name": "stop_now", "arguments": "{}", "valid": True}
    assert found["tool_calls"] == [[call], []]
    fields = dict(shape_of({"n": 2}, asked).fields())
    assert fields["tool_calls"].value_type == CALLS


THOUGHT = "<|channel>thought\nHm.\n<channel|>"
THINKS = {"generation": "gemma4", "thinks": True, "calls": "gemma4"}


@pytest.mark.parametrize(
    ("text", "asked", "thinking", "output"),
    [
        (f"{THOUGHT}Yes.", {"thinking": True}, "Hm.", "Yes."),
        (f"{THOUGHT}\n\nYes.", {"thinking": True}, "Hm.", "Yes."),
        ("Yes.", {"thinking": True}, None, "Yes."),
        ("<|channel>thought\n<channel|>Yes.", {"thinking": True}, None, "Yes."),
        (f"A {THOUGHT} B {THOUGHT.replace('Hm', 'Ah')}", {"thinking": True}, "Hm.\n\nAh.", "A  B"),
        ("Hm.<channel|>Yes.", {"thinking": True}, "Hm.", "Yes."),
        ("thought\nYes.", {"thinking": True}, None, "thought\nYes."),
        ("Hm.<channel|>yes", {"thinking": True, "answer": Answer(choice=("yes",))}, "Hm.", "yes"),
        (f"{THOUGHT}yes", {"thinking": True, "answer": Answer(choice=("yes",))}, "Hm.", "yes"),
        ("yes", {"thinking": True, "answer": Answer(choice=("yes",))}, "unfinished", ""),
        ("<|channel>thought\nHm", {"thinking": True}, "unfinished", ""),
        # Not asked for: taken out all the same.
        (f"{THOUGHT}Yes.", {}, "no column", "Yes."),
        (f"{THOUGHT}yes", {"answer": Answer(choice=("yes",))}, "no column", "yes"),
        ("<|channel>thought\nHm", {}, "unfinished", ""),
    ],
)
def test_thoughts_never_stand_in_the_output(
    text: str, asked: dict[str, Any], thinking: str | None, output: str
) -> None:
    """They have a column where they were asked for; without an answer behind, it is a failure."""
    found = checked(Asked(**(THINKS | asked)), text)
    if thinking == "unfinished":
        assert "ends inside the thoughts of the model" in found
        return
    assert found["output"] == output
    assert found.get("thinking", "no column") == thinking


def test_thoughts_are_counted_apart_and_end_at_a_call() -> None:
    """By the numbers of the control tokens; a call inside a thought ends it."""
    tools = Tools(definitions=tuple(DEFINITIONS))
    asked = Asked(**THINKS, thinking=True, tools=tools)
    text = f"{THOUGHT}I look.<|channel>thought\nAh{call4('', 'stop_now')}<eos>"
    names = ("<|channel>", "<channel|>", "<|channel>", "<|tool_call>", "<tool_call|>", "<eos>")
    found = checked(asked, text, marks=[marks_of(text, *names)])
    assert (found["output"], found["thinking"]) == ("I look.", "Hm.\n\nAh")
    assert found["thinking_tokens"] == (10 - 0 + 1) + (30 - 20)
    assert [call["name"] for call in found["tool_calls"]] == ["stop_now"]
    opened = Asked(**THINKS, thinking=True, answer=Answer(choice=("yes",)))
    found = checked(opened, "Hm.<channel|>yes", marks=[marks_of("Hm.<channel|>yes", "<channel|>")])
    assert (found["answer"], found["thinking_tokens"]) == ("yes", 1)


def test_a_row_with_a_shape_of_its_own_is_opened_inside_a_thought() -> None:
    """So a text without the end of the thought is no answer."""
    asked, own = Asked(**THINKS, thinking=True), {"structured_outputs": {"json": "{}"}}
    assert checked(asked, "Hm.<channel|>{}", **own)["thinking"] == "Hm."
    assert "ends inside the thoughts" in checked(asked, "{}", **own)
    assert checked(asked, "{}")["output"] == "{}"


def test_control_tokens_do_not_stand_in_the_output() -> None:
    """The end of a turn, for example; text that looks like one stays. A row can ask for them."""
    text = "It is <eos>.<eos><turn|>"
    real = [Mark(12, 17, 4), Mark(17, 24, 5)]
    assert checked(Asked(**THINKS), text, marks=[real])["output"] == "It is <eos>."
    kept = checked(Asked(**THINKS), text, marks=[real], skip_special_tokens=False)
    assert kept["output"] == text
    assert checked(Asked(**THINKS, keep_marks=True), text, marks=[real])["output"] == text


@pytest.mark.parametrize("choice", ["required", {"name": "get_weather"}, "auto"])
def test_a_dry_run_answers_with_calls(choice: Any) -> None:
    """Where calls are forced, they are there and valid; elsewhere the answer is text."""
    tools = Tools(definitions=tuple(DEFINITIONS), choice=choice)
    shape = shape_of({}, Asked(**THINKS, thinking=True, tools=tools))

    async def answered() -> Completion:
        asked = replace(config(), args={"reasoning_parser": "gemma4"})
        asked.sampling.update(shape.asks())
        engine = EchoEngine(asked)
        await engine.start()
        try:
            return await engine.generate(good(1))
        finally:
            await engine.stop()

    completion = asyncio.run(answered())
    assert shape.check(completion, good(1)) is None
    (calls,) = shape.columns([completion])["tool_calls"]
    assert all(call["valid"] for call in calls)
    assert bool(calls) == (choice != "auto")


def test_calls_and_thoughts_are_committed(store: Store, prepared: Prepared) -> None:
    """With their types, also where no row has any; a refused answer keeps its text."""
    asked = Asked(**THINKS, thinking=True, tools=Tools(definitions=tuple(DEFINITIONS)))
    shape = shape_of({}, asked)
    outcomes: dict[int, Any] = {}
    texts = [f"{THOUGHT}{call4(f'city:{Q}Oslo{Q}')}", "No call.", "<|tool_call>call:"]
    for number, text in zip(prepared.numbers, texts, strict=True):
        completion = Completion([text], ["stop"], 5, 9)
        refusal = shape.check(completion, good(number))
        failed = Failure("invalid_answer", "x", output=text)
        outcomes[number] = completion if refusal is None else failed
    commit_unit(store, replace(job(), asked=asked), prepared, outcomes, {}, shape=shape)
    table = pq.read_table(pa.BufferReader(store.read(prepared.unit.path)))
    assert table.schema.field("tool_calls").type == CALLS
    call = {"name": "get_weather", "arguments": '{"city": "Oslo"}', "valid": True}
    assert table["tool_calls"].to_pylist() == [[call], []]
    assert table["thinking"].to_pylist() == ["Hm.", None]
    assert table["thinking_tokens"].to_pylist() == [None, 0]
    assert table["output"].to_pylist() == ["", "No call."]
    (failure,) = part_failures(store, prepared.unit.path)
    assert failure["output"] == "<|tool_call>call:"
