"""Texts of shown rows: safe for a terminal, short, and easy to read."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gemma_batch.cli.show_rows import print_rows
from gemma_batch.reporting.display import Block, Piece, blocks, facts, pieces, pretty, safe, who
from gemma_batch.reporting.samples import ShownAnswer, ShownRow


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext ünï 日本語 🎉 👩‍👧", "plain\n\ttext ünï 日本語 🎉 👩‍👧"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb", "a\\x0db"),
        ("a\r\nb", "a\nb"),
        ("\x00\x7f", "\\x00\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("<\u200bend_of_turn>", "<\\u200bend_of_turn>"),
        ("a\u2028b", "a\\u2028b"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_signs_that_do_harm_are_spelled_out(text: str, shown: str) -> None:
    """Escape sequences, the direction of writing, invisible signs; other writing stays."""
    assert safe(text) == shown
    safe(text).encode()


@pytest.mark.parametrize(
    ("text", "most", "lines"),
    [("x" * 5000, 600, 30), ("line\n" * 500, 600, 30), ("a\n" * 299 + "b" * 2000, 600, 300)],
)
def test_long_texts_lose_their_middle(text: str, most: int, lines: int) -> None:
    """The sentence counts the characters that are left out."""
    head, gap, tail = pieces(text, most, lines)
    assert gap.kind == "gap"
    left_out = int(gap.text.strip("[]").split()[0].replace(",", ""))
    assert len(head.text) + left_out + len(tail.text) == len(text)
    assert text.startswith(head.text)
    assert text.endswith(tail.text)
    assert len(head.text) + len(tail.text) <= most
    assert (head.text + tail.text).count("\n") <= lines


def test_control_tokens_are_pieces_of_their_own() -> None:
    """Those of the template; what a document says stays plain."""
    found = pieces("<bos>hi <\u200bbos> <eos", 100, 10, ("<bos>",))
    assert found == [Piece("<bos>", "mark"), Piece("hi <\\u200bbos> <eos")]
    assert pieces("", 100, 10) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ('{"a": {"b": "ü"}}', '{\n  "a": {\n    "b": "ü"\n  }\n}'),
        ("{broken", "{broken"),
        ("[1]", "[\n  1\n]"),
        ("12", "12"),
        (3.5, "3.5"),
        ({"a": b"\xff"}, '{\n  "a": "/w=="\n}'),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_json_is_shown_field_by_field(value: Any, text: str) -> None:
    """Objects and lists, or a text that is one; anything else stays as it is."""
    assert pretty(value) == text


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"output": "hi"}, [("", "hi")]),
        ({"output": ""}, [("", "(empty)")]),
        ({"output": ["a", "b"]}, [("1 of 2", "a"), ("2 of 2", "b")]),
        ({"output": "yes", "answer": "yes"}, [("", "yes")]),
        ({"output": '{"a":1}', "answer": {"a": 1}}, [("", '{\n  "a": 1\n}')]),
        ({"output": " 5 ", "answer": 5}, [("", "5")]),
        ({"output": "so: 5", "answer": 5}, [("", "5"), ("output", "so: 5")]),
        (
            {"output": "x", "thinking": "hm", "more": {"confidence": 0.5, "logprobs": "[]"}},
            [("thoughts", "hm"), ("", "x"), ("confidence", "0.5")],
        ),
        (
            {"output": "", "tool_calls": [{"name": "f"}]},
            [("calls", '[\n  {\n    "name": "f"\n  }\n]')],
        ),
        ({"code": "deadline", "message": "late"}, [("deadline", "late")]),
        (
            {"code": "invalid_answer", "message": "no", "output": "{"},
            [("invalid_answer", "no"), ("refused answer", "{")],
        ),
    ],
)
def test_the_texts_of_an_answer(answer: dict[str, Any], shown: list[tuple[str, str]]) -> None:
    """In the order of reading, and nothing twice."""
    found = blocks(ShownAnswer(route="all", **answer))
    assert [(block.label, block.text) for block in found] == shown
    kinds = {"thoughts": "thinking", "deadline": "failure", "invalid_answer": "failure"}
    assert found == [Block(one, text, kinds.get(one, "answer")) for one, text in shown]  # type: ignore[arg-type]


def test_the_line_about_an_answer() -> None:
    """What is usual is not said."""
    usual = ShownAnswer(
        route="all",
        model="s3://bucket/models/mine",
        finish_reason="stop",
        prompt_tokens=1200,
        completion_tokens=5,
        attempts=1,
    )
    assert (who(usual), facts(usual)) == ("mine", "1,200 + 5 tokens")
    cut = ShownAnswer(route="r", finish_reason=["stop", "length"], attempts=3, seconds=1.25)
    assert (who(cut), facts(cut)) == ("route r", "stop, length, 3 attempts, 1.2 s")


ROW = ShownRow(
    id="t1",
    shard="/in/a.jsonl",
    row_number=7,
    prompt="<bos>left [bold]side[/bold] " + "w" * 3000,
    marks=("<bos>",),
    kept={"customer": "c1"},
    answers=(ShownAnswer(route="all", model="m", output="right side \x1b[2J"),),
)


def printed(row: ShownRow, width: int, *, terminal: bool) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, _environ={}
    )
    print_rows([row], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("width", "terminal", "beside"), [(140, True, True), (80, True, False), (140, False, False)]
)
def test_prompt_and_answer_in_the_terminal(width: int, terminal: bool, beside: bool) -> None:
    """Side by side where there is room; one below the other in a narrow one and in a pipe."""
    text = printed(ROW, width, terminal=terminal)
    lines = text.splitlines()
    assert lines[0].startswith("t1   a.jsonl, row 7   customer=c1")
    (prompt,) = [line for line in lines if "<bos>left [bold]side[/bold]" in line]
    assert ("right side" in prompt) is beside
    assert "right side \\x1b[2J" in text
    assert "characters left out]" in text
    if terminal:
        assert max(map(len, lines)) <= width


def test_a_row_without_a_prompt_says_why() -> None:
    """And shows the values of the row, if they are known."""
    row = ShownRow(
        id="x",
        shard="/in/a.jsonl",
        row_number=0,
        prompt=None,
        no_prompt="'doc' is null",
        row={"doc": None},
        answers=(ShownAnswer(route="all", code="null_value", message="'doc' is null"),),
    )
    text = printed(row, 80, terminal=False)
    assert "no prompt: 'doc' is null" in text
    assert '"doc": null' in text
    assert "null_value: 'doc' is null" in text
