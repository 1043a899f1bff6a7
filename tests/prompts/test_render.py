"""Rows to requests: order, failures, lengths and truncation."""

from __future__ import annotations

import json
import pickle
import re
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.errors import FailureCode
from gemma_batch.prompts.template import END, START, RowProblem
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.prompts.truncate import share
from gemma_batch.rows import Failure, Own, Request, Row
from tests.examples import examples
from tests.prompts.helpers import make, words

ROOM = 512 - 64


def one(tokenizer: Tokenizer, values: dict[str, Any], **changes: Any) -> Request | Failure:
    (answer,) = make(tokenizer, **changes).render_rows([Row(7, values)])
    return answer


def request(tokenizer: Tokenizer, values: dict[str, Any], **changes: Any) -> Request:
    answer = one(tokenizer, values, **changes)
    assert isinstance(answer, Request), answer
    return answer


def decoded(tokenizer: Tokenizer, answer: Request) -> str:
    """The prompt's text, special tokens included."""
    import tokenizers

    raw = tokenizers.Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
    return str(raw.decode(answer.prompt.token_ids, skip_special_tokens=False))


def test_requests_and_failures_in_order(tokenizer: Tokenizer) -> None:
    """One answer per row, each at its row's place; what the reader found wrong passes through."""
    unreadable = Failure("bad_row", "line 3 is not JSON")
    rows = [
        Row(5, {"body": "a"}),
        Row(6, None, unreadable),
        Row(7, {"body": None}),
        Row(8, {"body": "b"}),
    ]
    renderer = make(tokenizer, system="Be kind.")
    first, second, third, fourth = renderer.render_rows(rows)
    assert second is unreadable
    assert isinstance(third, Failure)
    assert third.code == "null_value"
    for row, answer in ((rows[0], first), (rows[3], fourth)):
        assert isinstance(answer, Request)
        assert answer.number == row.number
        assert answer.prompt.token_ids == tokenizer.encode(renderer.preview(row))
    assert renderer.render_rows([]) == []
    with pytest.raises(RowProblem, match="line 3"):
        renderer.preview(rows[1])


def test_the_prompt_is_the_models_own_format(gemma3: Tokenizer) -> None:
    """System, instruction and document end up in one user turn, the model's turn is open."""
    renderer = make(gemma3, system="Be {{ tone }}.")
    assert renderer.preview(Row(0, {"body": " x ", "tone": "kind"})) == (
        "<bos><start_of_turn>user\nBe kind.\n\nSummarise this.\n\n x<end_of_turn>\n"
        "<start_of_turn>model\n"
    )


CHAT = {"user": None, "messages": "chat"}
OPEN = {"last_answer": "continue"}
TALK = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1, 2,"}]
PARAMS = {"params": "p"}


@pytest.mark.parametrize(
    ("values", "changes", "code", "said"),
    [
        ({"body": None}, {}, "null_value", "'body'"),
        ({}, {}, "missing_field", "'body'"),
        ({"body": b"x"}, {}, "bad_value", "binary"),
        ({"body": "\udc00"}, {}, "bad_value", "surrogate"),
        ({"body": 1}, {"user": "{{ body / 0 }}"}, "template_error", "ZeroDivisionError"),
        ({"body": " \n"}, {}, "empty_prompt", "empty"),
        ({"a": "", "b": " "}, {"user": "x {{ a }}{{ b }}"}, "empty_prompt", "empty"),
        ({"chat": None}, CHAT, "null_value", "'chat'"),
        ({}, CHAT, "missing_field", "'chat'"),
        ({"chat": []}, CHAT, "bad_messages", "empty"),
        ({"chat": [{"role": "user", "content": " "}]}, CHAT, "empty_prompt", "empty"),
        ({"chat": [{"role": "user", "content": "\ud800"}]}, CHAT, "bad_value", "surrogate"),
        ({"body": "x", "p": "{"}, PARAMS, "bad_params", "JSON"),
        ({"body": "x", "p": [1]}, PARAMS, "bad_params", "list"),
        ({"body": "x", "p": {"max_tokens": "9"}}, PARAMS, "bad_params", "'9'"),
        ({"body": "x", "p": {"max_tokens": 0}}, PARAMS, "bad_params", "0"),
        ({"body": "x", "p": {"max_tokens": 512}}, PARAMS, "prompt_too_long", "512"),
        ({"chat": TALK}, CHAT, "bad_messages", "last message"),
        (
            {"chat": TALK, "p": {"continue_final_message": False}},
            {**CHAT, **PARAMS, **OPEN},
            "bad_messages",
            "last message",
        ),
        ({"body": "x", "p": {"continue_final_message": True}}, PARAMS, "bad_params", "prompt.user"),
        ({"body": "x", "p": {"extra_body": 7}}, PARAMS, "bad_params", "int"),
        ({"body": "x", "p": {"seed": 1, "extra_body": {"seed": 2}}}, PARAMS, "bad_params", "seed"),
        ({"body": words(1000)}, {}, "prompt_too_long", "512"),
        ({"body": "x"}, {"user": words(1000) + "{{ body }}"}, "prompt_too_long", "512"),
    ],
)
def test_each_failure_code(
    tokenizer: Tokenizer, values: dict[str, Any], changes: dict[str, Any], code: str, said: str
) -> None:
    """What is wrong with a row costs that row and is explained."""
    answer = one(tokenizer, values, **changes)
    assert isinstance(answer, Failure)
    assert (answer.code, said in answer.message) == (code, True), answer
    assert answer.code in set(FailureCode)


def test_an_instruction_without_columns_is_no_empty_prompt(tokenizer: Tokenizer) -> None:
    """Only a prompt that takes something from the row can be empty."""
    assert request(tokenizer, {}, user="Tell me a story.").prompt.token_ids


def test_sampling_overrides(tokenizer: Tokenizer) -> None:
    """Objects and JSON are taken, nulls of a Parquet struct dropped, the validator has its say."""
    values = {"body": "x", "p": {"seed": 3, "top_p": None}}
    assert request(tokenizer, values, **PARAMS).sampling == {"seed": 3}
    values["p"] = json.dumps({"max_completion_tokens": 5})

    def allowed(params: dict[str, Any]) -> dict[str, Any]:
        if "top_p" in params:
            raise ValueError("'top_p' cannot be set by a row")
        return Own({"max_tokens": params["max_completion_tokens"]}, {})

    changes = {**PARAMS, "allowed_params": allowed}
    assert request(tokenizer, values, **changes).sampling == {"max_tokens": 5}
    for nothing in ({"body": "x"}, {"body": "x", "p": None}):
        assert request(tokenizer, nothing, **PARAMS).sampling == {}
    refused = one(tokenizer, {"body": "x", "p": {"top_p": 1}}, **changes)
    assert refused == Failure("bad_params", "'p': 'top_p' cannot be set by a row")


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        ({}, OPEN),
        ({"continue_final_message": True}, {}),
        (json.dumps({"continue_final_message": True}), {}),
        ({"extra_body": {"continue_final_message": True}}, {}),
    ],
)
def test_an_open_answer_is_continued_where_the_job_or_the_row_asks_for_it(
    tokenizer: Tokenizer, own: Any, changes: dict[str, Any]
) -> None:
    """The prompt ends with the begun answer; control tokens in it are broken as elsewhere."""
    values = {"chat": [*TALK[:1], {**TALK[1], "content": "1, <eos> 2, "}], "p": own}
    renderer = make(tokenizer, **CHAT, **PARAMS, **changes, allowed_params=lambda _: Own({}, {}))
    (answer,) = renderer.render_rows([Row(0, values)])
    assert isinstance(answer, Request)
    text = renderer.preview(Row(0, values))
    assert text.endswith("model\n1, <\u200beos> 2,")
    assert answer.prompt.token_ids == tokenizer.encode(text)
    asked = [Row(0, {**values, "chat": TALK[:1]})]
    assert isinstance(renderer.render_rows(asked)[0], Request)


def test_a_rows_own_max_tokens_counts(tokenizer: Tokenizer) -> None:
    """The room for the prompt is what this row's answer leaves."""
    body = words(60)
    size = len(request(tokenizer, {"body": body}).prompt.token_ids)
    fits = {"body": body, "p": {"max_tokens": 512 - size}}
    assert isinstance(one(tokenizer, fits, **PARAMS), Request)
    fits["p"] = {"max_tokens": 512 - size + 1}
    answer = one(tokenizer, fits, **PARAMS)
    assert isinstance(answer, Failure)
    assert f"{size} tokens" in answer.message


def test_conversations(tokenizer: Tokenizer) -> None:
    """A ready conversation, its control tokens broken; the spec's system text comes first."""
    chat = [
        {"role": "system", "content": "S2<bos>"},
        {"role": "user", "content": "<end_of_turn><turn|>A"},
        {"role": "assistant", "content": "B<eos>"},
        {"role": "user", "content": "C"},
    ]
    text = make(tokenizer, system="S1", **CHAT).preview(Row(0, {"chat": chat}))
    clean = [{**message, "content": message["content"]} for message in chat]
    clean[0]["content"] = "S1\n\nS2"
    clean[1]["content"], clean[2]["content"] = "A", "B"
    plain = tokenizer.chat.render(clean)
    controls = [i for i in tokenizer.encode(plain) if i in tokenizer.control_ids]
    assert [i for i in tokenizer.encode(text) if i in tokenizer.control_ids] == controls
    assert text.index("S1") < text.index("S2") < text.index("A") < text.index("B")


@pytest.mark.parametrize("overlong", ["truncate_start", "truncate_end"])
@pytest.mark.parametrize("length", [300, 3000, 100_000])
def test_truncation_keeps_what_fits(tokenizer: Tokenizer, overlong: str, length: int) -> None:
    """The instruction stays whole, the prompt ends within a few tokens of the limit."""
    body = f"FIRST {words(length)} LAST"
    user = "Before.\n\n{{ body }}\n\nAfter."
    answer = request(tokenizer, {"body": body}, overlong=overlong, user=user)
    assert ROOM - 4 <= len(answer.prompt.token_ids) <= ROOM
    text = decoded(tokenizer, answer)
    _, _, rest = text.partition("Before.\n\n")
    kept, _, _ = rest.partition("\n\nAfter.")
    assert kept
    if overlong == "truncate_end":
        assert body.startswith(kept)
    else:
        assert body.endswith(kept)


def test_the_longest_document_is_cut_first(tokenizer: Tokenizer) -> None:
    """Short values survive as long as cutting a longer one is enough."""
    values = {"title": "A short title", "body": words(2000), "note": words(20, seed=5)}
    user = "{{ title }}\n{{ body }}\n{{ note }}"
    answer = request(tokenizer, values, user=user, overlong="truncate_end")
    text = decoded(tokenizer, answer)
    assert values["title"] in text
    assert values["note"] in text
    assert len(answer.prompt.token_ids) >= ROOM - 4


def test_several_documents_can_be_cut(tokenizer: Tokenizer) -> None:
    """Two long documents keep about the same length, so that they can still be compared."""
    values = {"a": words(900, seed=1), "b": words(5000, seed=2)}
    answer = request(tokenizer, values, user="{{ a }}\n--\n{{ b }}", overlong="truncate_end")
    text = decoded(tokenizer, answer)
    assert ROOM - 4 <= len(answer.prompt.token_ids) <= ROOM
    assert values["a"][:500] in text
    assert values["b"][:500] in text


@given(st.integers(0, 200), st.lists(st.integers(0, 60), max_size=6))
def test_sharing_room(total: int, sizes: list[int]) -> None:
    """All of the room is given away; who gets less than it needs gets as much as anybody."""
    given_ = share(total, sizes)
    assert sum(given_) == min(total, sum(sizes))
    assert all(part <= size for part, size in zip(given_, sizes, strict=True))
    short = [part for part, size in zip(given_, sizes, strict=True) if part < size]
    assert all(part >= max(given_) - 1 for part in short)


@pytest.mark.parametrize("overlong", ["truncate_start", "truncate_end"])
def test_an_instruction_that_is_too_long_fails(tokenizer: Tokenizer, overlong: str) -> None:
    """The instruction is never cut, and an instruction alone is not sent."""
    user = words(1000) + "{{ body }}"
    answer = one(tokenizer, {"body": "x"}, user=user, overlong=overlong)
    assert isinstance(answer, Failure)
    assert answer.code == "prompt_too_long"
    assert "even without" in answer.message


def test_only_user_messages_of_a_conversation_are_cut(tokenizer: Tokenizer) -> None:
    """The longest user message gives way, whatever the others are."""
    chat = [
        {"role": "user", "content": words(800, seed=1)},
        {"role": "assistant", "content": "ANSWER " + words(50, seed=2)},
        {"role": "user", "content": "LAST question"},
    ]
    answer = request(tokenizer, {"chat": chat}, **CHAT, overlong="truncate_start")
    text = decoded(tokenizer, answer)
    assert ROOM - 4 <= len(answer.prompt.token_ids) <= ROOM
    assert chat[1]["content"] in text
    assert "LAST question" in text


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    pieces=st.lists(
        st.sampled_from(
            ["<end_of_turn>", "<|turn>", "漢字", "é", "\n\n\n", "   ", "word ", "<", "😀"]
        )
        | st.text(max_size=5),
        min_size=1,
        max_size=40,
    ),
    repeat=st.integers(1, 40),
    overlong=st.sampled_from(["truncate_start", "truncate_end"]),
    limit=st.integers(60, 120),
)
def test_truncation_holds_for_any_document(
    tokenizer: Tokenizer, pieces: list[str], repeat: int, overlong: str, limit: int
) -> None:
    """Fits, says so if it cannot, adds no control token, wastes little room."""
    body = "".join(pieces) * repeat
    changes = {"overlong": overlong, "max_model_len": limit, "max_tokens": 10}
    answer = one(tokenizer, {"body": body}, **changes)
    if isinstance(answer, Failure):
        # Either there is nothing to say, or nothing but blanks in reach of the limit.
        blanks = re.search(r"\s{16}", body)
        assert not body.strip(f"{START}{END} \n\r\t").strip() or (
            answer.code == "prompt_too_long" and blanks
        )
        return
    assert len(answer.prompt.token_ids) <= limit - 10
    harmless = request(tokenizer, {"body": "x"}).prompt.token_ids
    controls = sum(i in tokenizer.control_ids for i in answer.prompt.token_ids)
    assert controls == sum(i in tokenizer.control_ids for i in harmless)
    whole = request(tokenizer, {"body": body}, max_model_len=10**6)
    if len(whole.prompt.token_ids) > limit - 10 and not any(c.isspace() for c in body):
        assert len(answer.prompt.token_ids) >= limit - 10 - 8


@pytest.mark.parametrize("overlong", ["fail", "truncate_start", "truncate_end"])
@pytest.mark.parametrize("unit", ["some words ", "<eos>", "a", "<"])
def test_a_megabyte_is_cheap(gemma3: Tokenizer, overlong: str, unit: str) -> None:
    """One huge document must not hold up its unit."""
    body = unit * (1_000_000 // len(unit))
    started = time.process_time()
    answer = one(gemma3, {"body": body}, overlong=overlong)
    assert time.process_time() - started < 2
    assert isinstance(answer, Failure if overlong == "fail" else Request)


def test_a_megabyte_that_fits_a_large_context_is_counted(gemma3: Tokenizer) -> None:
    """Without the shortcut for hopeless cases: tokenized once, well under two seconds each."""
    started = time.process_time()
    answer = one(gemma3, {"body": words(160_000)}, max_model_len=131_072)
    assert time.process_time() - started < 4
    assert isinstance(answer, Failure)
    assert "131,072" in answer.message


def test_a_renderer_can_be_pickled(tokenizer: Tokenizer) -> None:
    """Ray may carry one to another process."""
    renderer = make(tokenizer, system="{{ body }}")
    rows = [Row(0, {"body": "x"})]
    assert pickle.loads(pickle.dumps(renderer)).render_rows(rows) == renderer.render_rows(rows)


def test_exactly_one_source() -> None:
    """A prompt has a template or ready conversations."""
    with pytest.raises(ValueError, match="exactly one"):
        make(None, messages="chat")  # type: ignore[arg-type]
