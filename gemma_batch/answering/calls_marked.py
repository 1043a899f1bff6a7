"""Marked calls: the calls of Gemma 4 and FunctionGemma, which stand between control tokens.

Gemma 4 writes `<|tool_call>call:NAME{city:<|"|>Oslo<|"|>,days:3}<tool_call|>`; FunctionGemma writes
the same between other marks. Strings stand between two marks of their own and have no escapes;
numbers, `true`, `false` and `null` stand bare. The parser is a pure function of the text. It takes
nothing for granted and repairs nothing: a word without marks, for example, is an error and not a
string. It runs in the GPU actor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gemma_batch.answering.calls_found import (
    DEEPEST,
    BadCallError,
    Call,
    Found,
    check_name,
    finite,
)

_BARE = re.compile(r"[^,:{}\[\]<>\s]+")
_WORDS = {"true": True, "false": False, "null": None, "None": None}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NAME = re.compile(r"[^\s{}<>,:\[\]()]+")
_SPACE = re.compile(r"\s*")
MOST_DIGITS = 300  # of a whole number

Find = Callable[[str, int], int]


@dataclass(frozen=True, slots=True)
class CallMarks:
    """The control tokens around a call and around a string in its arguments."""

    start: str
    end: str
    quote: str
    result: str  # begins the result of a call: the model has to stop there


FORMATS = {
    "gemma4": CallMarks("<|tool_call>", "<tool_call|>", '<|"|>', "<|tool_response>"),
    "functiongemma": CallMarks(
        "<start_function_call>",
        "<end_function_call>",
        "<escape>",
        "<start_function_response>",
    ),
}


def marked_calls(text: str, marks: CallMarks, find: Find | None = None) -> Found:
    """The calls in `text`. Raises `BadCallError` for a call that cannot be read or is unfinished.

    `find(mark, start)` gives the place of the next real control token, or -1. Without it, every
    text that looks like a control token counts.
    """
    look = find or text.find
    found, at = Found(), 0
    while (start := look(marks.start, at)) >= 0:
        reader = _Reader(text, start + len(marks.start), marks, look)
        call = reader.call()
        found.calls.append(call)
        found.spans.append((start, reader.at))
        at = reader.at
    last = found.spans[-1][1] if found.spans else 0
    if (lonely := look(marks.end, last)) >= 0:
        raise BadCallError(f"{marks.end!r} at character {lonely} ends no call")
    return found


class _Reader:
    def __init__(self, text: str, at: int, marks: CallMarks, find: Find) -> None:
        self._text, self.at, self._marks, self._find = text, at, marks, find

    def call(self) -> Call:
        self._skip()
        self._take("call:")
        name = check_name(self._match(_NAME, "the name of a function"))
        self._skip()
        arguments = self._object(1)
        self._skip()
        self._mark(self._marks.end)
        return Call(name, arguments)

    def _value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise BadCallError(f"the arguments are nested deeper than {DEEPEST}")
        if self._is_mark(self._marks.quote):
            return self._string()
        char = self._text[self.at : self.at + 1]
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._list(depth)
        return self._bare()

    def _object(self, depth: int) -> dict[str, Any]:
        self._take("{")
        found: dict[str, Any] = {}
        self._skip()
        while not self._at("}"):
            if found:
                self._take(",")
                self._skip()
            if self._is_mark(self._marks.quote):
                key = self._string()
            else:
                key = self._match(_BARE, "the name of an argument")
            if key in found:
                raise BadCallError(f"the argument {key!r} stands there twice")
            self._skip()
            self._take(":")
            self._skip()
            found[key] = self._value(depth + 1)
            self._skip()
        self._take("}")
        return found

    def _list(self, depth: int) -> list[Any]:
        self._take("[")
        found: list[Any] = []
        self._skip()
        while not self._at("]"):
            if found:
                self._take(",")
                self._skip()
            found.append(self._value(depth + 1))
            self._skip()
        self._take("]")
        return found

    def _string(self) -> str:
        quote = self._marks.quote
        start = self.at + len(quote)
        end = self._find(quote, start)
        if end < 0:
            raise BadCallError(f"a call is unfinished: a string has no end: {self._near()}")
        self.at = end + len(quote)
        return self._text[start:end]

    def _bare(self) -> Any:
        word = self._match(_BARE, "a value")
        if word in _WORDS:
            return _WORDS[word]
        if not _NUMBER.fullmatch(word) or len(word) > MOST_DIGITS:
            raise BadCallError(f"the value {word[:80]!r} is no number, and has no {self._quote}")
        value = json.loads(word)
        return finite(value) if isinstance(value, float) else value

    @property
    def _quote(self) -> str:
        return f"{self._marks.quote} around it"

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self.at)
        assert match is not None
        self.at = match.end()

    def _at(self, char: str) -> bool:
        return self._text.startswith(char, self.at)

    def _take(self, wanted: str) -> None:
        if not self._at(wanted):
            raise BadCallError(f"{self._unfinished()}{wanted!r} is missing: {self._near()}")
        self.at += len(wanted)

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        match = pattern.match(self._text, self.at)
        if match is None:
            raise BadCallError(f"{self._unfinished()}{what} is missing: {self._near()}")
        self.at = match.end()
        return match.group()

    def _is_mark(self, mark: str) -> bool:
        return self._at(mark) and self._find(mark, self.at) == self.at

    def _mark(self, mark: str) -> None:
        if not self._is_mark(mark):
            raise BadCallError(f"{self._unfinished()}{mark!r} is missing: {self._near()}")
        self.at += len(mark)

    def _unfinished(self) -> str:
        return "a call is unfinished: " if self.at >= len(self._text.rstrip()) else ""

    def _near(self) -> str:
        return repr(self._text[max(0, self.at - 40) : self.at + 40])
