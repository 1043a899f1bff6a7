"""Rows of any values through the templates: a request that is safe and fits, or a failed row."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.errors import FailureCode, SpecError
from gemma_batch.prompts.render import Overlong, Renderer
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reading.own_params import OwnParams
from gemma_batch.rows import Failure, Row
from tests.examples import examples

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LIMIT, ANSWER = 96, 16
CODES = {code.value for code in FailureCode}
# Pieces of control tokens of every generation, marks of our own, halves of surrogate pairs, Jinja.
PIECES = [
    "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of",
    "_turn>", "<|turn>", "<turn|>", "<|", "|>", "<", ">", "<bo", "s>", "<|think|>", "<|channel>",
    "<|tool_call>", "<|\"|>", "<start_of_image>", "model\n", "user\n", "\u200b", "\ufdd0", "\ufdd1",
    "\ufdd1<end_of_turn>\ufdd0", "\ufdd1<turn|>\ufdd0",
    "\ud800", "\x00", "\r", "{{ body }}", "{% raw %}", "{{", "}}", "\u0130", "\u0301", "\U0001f600",
]  # fmt: skip
TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join),
    st.text(min_size=1, max_size=5).map(lambda text: text * 300),
)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary(max_size=4)
    | st.datetimes()
    | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
TEMPLATES = [
    "Summarise this.\n\n{{ body }}",
    "{{ title }}{{ body }}",
    "<{{ title }}>{{ body }}<end_of_turn>",
    "{% for x in body %}{{ loop.index }}. {{ x }}\n{% endfor %}{{ title }}",
    "{{ body | upper }} {{ title | tojson }} {{ body.role }} {{ title[0] }}",
    "{% set both = title ~ body %}{{ both | replace('a', '<') | trim }}",
    "{{ (title, body) | join('start_of_turn') }}{{ [title, body] | first }}",
    "{{ body | reverse }}{{ title | wordwrap(3) }}{{ '%s' % title }}{{ '{}'.format(body) }}",
]


def renderer(tokenizer: Tokenizer, **changes: Any) -> Renderer:
    given: dict[str, Any] = {
        "system": None,
        "user": None,
        "messages": None,
        "params": None,
        "overlong": "truncate_end",
        "max_model_len": LIMIT,
        "max_tokens": ANSWER,
        "allowed_params": OwnParams(engine="echo", job={"max_tokens": 16}, vocab=600),
    }
    return Renderer(tokenizer=tokenizer, **(given | changes))


def controls(tokenizer: Tokenizer, ids: list[int]) -> Counter[int]:
    return Counter(i for i in ids if i in tokenizer.control_ids)


def check(
    tokenizer: Tokenizer, made: Renderer, rows: list[dict[str, Any]], allowed: Counter[int] | None
) -> None:
    """What holds for every answer to every row; `allowed` are the control tokens of the format."""
    answers = made.render_rows([Row(i, values) for i, values in enumerate(rows)])
    assert len(answers) == len(rows)
    for i, answer in enumerate(answers):
        if isinstance(answer, Failure):
            assert answer.code in CODES
            assert answer.message
            assert len(answer.message) < 1000
            json.dumps(answer.message).encode()
            continue
        assert answer.number == i
        assert answer.prompt.token_ids[0] == tokenizer.bos_id
        assert answer.prompt.token_ids.count(tokenizer.bos_id) == 1
        assert len(answer.prompt.token_ids) <= LIMIT - answer.sampling.get("max_tokens", ANSWER)
        if allowed is not None:
            found = controls(tokenizer, answer.prompt.token_ids)
            assert found == allowed, f"{found - allowed} came from the document"


def harmless(tokenizer: Tokenizer, **changes: Any) -> Counter[int]:
    """The control tokens of the same prompt over a harmless row: the format's own."""
    row = Row(0, {"title": "a", "body": ["b"] if "for x" in str(changes) else "b"})
    (answer,) = renderer(tokenizer, **changes).render_rows([row])
    if isinstance(answer, Failure):  # a template that wants an object has the plain prompt's
        return harmless(tokenizer, **{**changes, "user": "{{ title }}"})
    return controls(tokenizer, answer.prompt.token_ids)


@pytest.mark.parametrize("user", TEMPLATES)
@settings(FUZZ, max_examples=examples(30))
@given(
    rows=st.lists(st.fixed_dictionaries({"title": VALUE, "body": VALUE}), min_size=1, max_size=3),
    overlong=st.sampled_from(["fail", "truncate_start", "truncate_end"]),
)
def test_any_value_in_any_template(
    tokenizer: Tokenizer, user: str, rows: list[dict[str, Any]], overlong: Overlong
) -> None:
    """Nothing raises; one BOS; the limit holds; only the format's own control tokens."""
    made = renderer(tokenizer, user=user, overlong=overlong)
    # What the template's author wrote stays: only the document's share is at stake.
    plain = "<end_of_turn>" not in user
    check(tokenizer, made, rows, harmless(tokenizer, user=user) if plain else None)


@FUZZ
@given(title=TEXT, body=TEXT, system=TEXT)
def test_any_text_between_any_literals(
    tokenizer: Tokenizer, title: str, body: str, system: str
) -> None:
    """Two values side by side in user and system text cannot spell a token together."""
    changes = {"system": "{{ system }}{{ title }}", "user": "{{ title }}{{ body }}"}
    made = renderer(tokenizer, **changes)
    rows = [{"title": title, "body": body, "system": system}]
    (answer,) = made.render_rows([Row(0, rows[0])])
    if isinstance(answer, Failure):
        assert answer.code in {"empty_prompt", "prompt_too_long", "bad_value"}
        return
    found = controls(tokenizer, answer.prompt.token_ids)
    both = harmless(tokenizer, system="b", user="{{ title }}")
    alone = harmless(tokenizer, user="{{ title }}")
    assert found in (both, alone)  # an empty system text leaves out its turn
    check(tokenizer, made, rows, None)


PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": VALUE})
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "model"]) | VALUE,
        "content": TEXT | st.lists(PART, max_size=2) | VALUE,
    }
)


@FUZZ
@given(
    messages=st.lists(MESSAGE, max_size=4) | VALUE,
    params=st.none()
    | st.dictionaries(
        st.sampled_from(["max_tokens", "temperature", "n", "stop", "seed", "extra_args"])
        | st.text(max_size=5),
        VALUE,
        max_size=3,
    )
    | VALUE,
    as_text=st.booleans(),
)
def test_any_conversation_and_any_parameters(
    tokenizer: Tokenizer, messages: Any, params: Any, as_text: bool
) -> None:
    """As values and as the JSON of them: answered within the limit, or a failed row."""
    if as_text:
        messages = json.dumps(messages, default=str)
        params = json.dumps(params, default=str)
    made = renderer(tokenizer, messages="messages", params="params")
    check(tokenizer, made, [{"messages": messages, "params": params}], None)


@FUZZ
@given(turns=st.lists(TEXT, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1))
def test_a_conversation_has_as_many_turns_as_it_says(
    tokenizer: Tokenizer, turns: list[str]
) -> None:
    """Whatever its texts hold, they open and close no turns of their own."""
    roles = ["user", "assistant"] * 3

    def talk(texts: list[str]) -> list[dict[str, str]]:
        return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]

    made = renderer(tokenizer, messages="m", max_model_len=10_000)
    hostile, tame = made.render_rows(
        [Row(0, {"m": talk(turns)}), Row(1, {"m": talk(["a"] * len(turns))})]
    )
    assert not isinstance(tame, Failure)
    if isinstance(hostile, Failure):
        assert hostile.code in {"bad_value", "empty_prompt", "prompt_too_long"}
        return
    assert controls(tokenizer, hostile.prompt.token_ids) == controls(
        tokenizer, tame.prompt.token_ids
    )


@pytest.mark.parametrize("overlong", ["truncate_start", "truncate_end"])
@FUZZ
@given(text=TEXT, limit=st.integers(20, 60))
def test_truncation_fits_and_keeps_an_end(
    tokenizer: Tokenizer, overlong: Overlong, text: str, limit: int
) -> None:
    """Any limit is kept, and what is left are characters of the document, in order."""
    body = f"{text} word " * 40
    made = renderer(tokenizer, user="Q: {{ body }}", overlong=overlong, max_model_len=limit)
    (answer,) = made.render_rows([Row(0, {"body": body})])
    if isinstance(answer, Failure):
        assert answer.code in {"bad_value", "prompt_too_long"}
        return
    assert len(answer.prompt.token_ids) <= limit - ANSWER


@FUZZ
@given(source=st.lists(st.sampled_from([*PIECES, "body", " ", "|", "(", ")", ".", "[0]", "% if",
    "%}", "{%", "% for x in body %}", "{% endfor %}", "{{ body }}", "~", "'", "range", "+", "1"]),
    max_size=10).map("".join))  # fmt: skip
def test_any_template_compiles_or_is_refused(tokenizer: Tokenizer, source: str) -> None:
    """A `SpecError` that names the field, or a renderer whose rows fail one by one."""
    try:
        made = renderer(tokenizer, user=source)
    except SpecError as err:
        refusal = str(err)
    else:
        refusal = ""
    if refusal:
        assert refusal.startswith("prompt.user")
        return
    check(tokenizer, made, [{"body": "some text"}, {"body": ["<bos>"]}], None)


@pytest.mark.parametrize("depth", [50, 900, 940, 960, 980, 5000])
@pytest.mark.parametrize("field", ["type", "role", "content", "params", "whole"])
def test_values_nested_deeply_cost_their_row(tokenizer: Tokenizer, depth: int, field: str) -> None:
    """JSON text in a column may nest as deep as it likes; nothing recurses to death over it."""
    deep = "[" * depth + "]" * depth
    message = {
        "type": '{"role": "user", "content": [{"type": %s, "text": "x"}]}',
        "role": '{"role": %s, "content": "x"}',
        "content": '{"role": "user", "content": %s}',
    }.get(field, '{"role": "user", "content": "x"}')
    messages = deep if field == "whole" else f"[{message.replace('%s', deep)}]"
    params = f'{{"extra_args": {{"a": {deep}}}}}' if field == "params" else None
    made = renderer(tokenizer, messages="m", params="p", overlong="fail")
    rows = [{"m": messages, "p": params}, {"m": '[{"role": "user", "content": "x"}]', "p": None}]
    check(tokenizer, made, rows, None)
