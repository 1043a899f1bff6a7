"""Display: the texts of a shown row, made safe and short, for the terminal and for pages.

Prompts and answers are texts of strangers: a terminal obeys escape sequences in them, and signs
that turn the direction of writing make a text look like another. So such signs are spelled out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemma_batch.reporting.samples import ShownAnswer, ShownRow
from gemma_batch.storage.keep import as_json, as_text

# Control characters but for newline and tab, halves of characters, line separators, signs of the
# direction of writing, and the invisible break that a prompt has inside of a document's control
# tokens (see `prompts/control.py`).
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
BULKY = {"logprobs"}  # columns that nobody reads with the eyes
EMPTY = "(empty)"


@dataclass(frozen=True, slots=True)
class Block:
    """One text beside a prompt. `label` says which, "" for the answer itself."""

    label: str
    text: str
    kind: Literal["answer", "thinking", "failure"] = "answer"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text: plain, a control token (`mark`), or a sentence about a gap (`gap`)."""

    text: str
    kind: Literal["plain", "mark", "gap"] = "plain"


def safe(text: str) -> str:
    """The text with signs spelled out that could do harm or hide something, such as `\\x1b`."""
    return UNSAFE.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def pieces(text: str, most: int, lines: int, marks: Sequence[str] = ()) -> list[Piece]:
    """The text, safe, in pieces; a long one without its middle.

    At most about `most` characters and `lines` lines are left: two thirds from the start, the rest
    from the end. `marks` are control tokens to point out.
    """
    head, gap, tail = _cut(text, most, lines)
    if not gap:
        return _marked(head, marks)
    sentence = Piece(f"[{gap:,} characters left out]", "gap")
    return [*_marked(head, marks), sentence, *_marked(tail, marks)]


def _cut(text: str, most: int, lines: int) -> tuple[str, int, str]:
    """Start, number of characters left out, end."""
    if len(text) <= most and text.count("\n") < lines:
        return text, 0, ""
    first, last = most * 2 // 3, most // 3
    start, end = text[:first], text[max(len(text) - last, first) :]
    start = "\n".join(start.split("\n")[: lines * 2 // 3])
    end = "\n".join(end.split("\n")[-(lines // 3) :])
    return start, len(text) - len(start) - len(end), end


def _marked(text: str, marks: Sequence[str]) -> list[Piece]:
    if not text:
        return []
    if not marks:
        return [Piece(safe(text))]
    pattern = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
    found, at = [], 0
    for match in pattern.finditer(text):
        found += [Piece(safe(text[at : match.start()])), Piece(safe(match.group()), "mark")]
        at = match.end()
    found.append(Piece(safe(text[at:])))
    return [piece for piece in found if piece.text]


def pretty(value: Any) -> str:
    """A value as text to read: objects and lists, or their JSON text, with one field per line."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value) if value.lstrip()[:1] in {"{", "["} else None
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict | list):
            return value
        value = parsed
    if not isinstance(value, dict | list | tuple):
        return as_text(value)
    try:
        return json.dumps(json.loads(as_json(value)), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return as_text(value)


def blocks(answer: ShownAnswer) -> list[Block]:
    """The texts of an answer or a failure, in the order of reading."""
    if answer.code is not None:
        found = [Block(answer.code, answer.message or "", "failure")]
        if answer.output is not None:
            found += _outputs(answer.output, "refused answer")
        return found
    found = []
    if answer.thinking:
        found += [
            Block(label, text, "thinking") for label, text in _each(answer.thinking, "thoughts")
        ]
    if answer.tool_calls:
        found.append(Block("calls", pretty(answer.tool_calls)))
    if answer.answer is not None:
        found.append(Block("", pretty(answer.answer)))
        if not _same(answer.output, answer.answer):
            found += _outputs(answer.output, "output")
    elif answer.output or not found:
        found += _outputs(answer.output, "")
    others = {k: v for k, v in answer.more.items() if v is not None and k not in BULKY}
    found += [Block(name, pretty(value)) for name, value in others.items()]
    return found


def _outputs(output: Any, label: str) -> list[Block]:
    return [Block(name, pretty(text) or EMPTY) for name, text in _each(output, label)]


def _each(value: Any, label: str) -> list[tuple[str, str]]:
    """The texts of all samples of a row, each with a label."""
    if not isinstance(value, list):
        return [(label, "" if value is None else str(value))]
    count = len(value)
    return [
        (f"{label} {number} of {count}".strip(), "" if text is None else str(text))
        for number, text in enumerate(value, 1)
    ]


def _same(output: Any, answer: Any) -> bool:
    """Whether the text says nothing that the typed answer does not say."""
    if output is None or output == answer:
        return True
    try:
        return bool(json.loads(output) == json.loads(as_json(answer)))
    except (ValueError, TypeError, RecursionError):
        return str(output).strip() == as_text(answer)


def facts(answer: ShownAnswer) -> str:
    """One line about an answer: its end, tokens, attempts and time."""
    ends = answer.finish_reason
    ends = ", ".join(dict.fromkeys(ends)) if isinstance(ends, list) else ends
    found = [str(ends)] if ends and ends != "stop" else []
    if answer.prompt_tokens is not None and answer.completion_tokens is not None:
        found.append(f"{answer.prompt_tokens:,} + {answer.completion_tokens:,} tokens")
    if answer.attempts is not None and answer.attempts != 1:
        found.append(f"{answer.attempts:,} attempts")
    if answer.seconds:
        found.append(f"{answer.seconds:,.1f} s")
    return ", ".join(found)


def who(answer: ShownAnswer) -> str:
    """The model of an answer, of a folder its last name; of a failure, the route."""
    if answer.model is None:
        return safe(f"route {answer.route}")
    folder = answer.model.startswith(("/", "s3://"))
    return safe(answer.model.rstrip("/").rsplit("/", 1)[-1] if folder else answer.model)


def place(row: ShownRow) -> str:
    """The place of a row in the input."""
    return safe(f"{row.shard.rsplit('/', 1)[-1]}, row {row.row_number:,}")


def kept(row: ShownRow, most: int = 60) -> str:
    """The kept columns of a row in one line, without the id again."""
    values = {n: as_text(v) for n, v in row.kept.items() if v is not None and as_text(v) != row.id}
    short = {n: v if len(v) <= most else f"{v[: most - 3]}..." for n, v in values.items()}
    return safe(", ".join(f"{name}={value}" for name, value in short.items())).replace("\n", " ")


def instead_of_prompt(row: ShownRow) -> str:
    """The text in place of a prompt that is missing: the values of the row, if they are known."""
    return "" if row.row is None else pretty(row.row)
