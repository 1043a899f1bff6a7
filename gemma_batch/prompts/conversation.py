"""Conversation: the turns of one row, made of segments, between templates and prompt text.

A conversation knows which characters are document text, so that document text can be neutralised
and cut. It knows no limits and no policies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gemma_batch.prompts.chat import OPEN_THOUGHT, Message
from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.template import Segment
from gemma_batch.prompts.tokens import TextTokenizer


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `cuttable` says whether its document text may be shortened.

    `calls` are calls of functions that the assistant made, as {name, arguments}. A turn of the role
    `tool` is the result of the call of the function `name`. All of them come from the row, and
    names are checked.
    """

    role: str
    segments: tuple[Segment, ...]
    cuttable: bool = True
    calls: tuple[dict[str, Any], ...] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a segment: the number of its turn, and its number in the turn, from 0."""

    turn: int
    segment: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a row, in order, with what the job adds for the chat template.

    `tools` are the job's functions in OpenAI's form. `thinking` asks for thoughts, and `opened`
    leaves the prompt open inside a thought.
    """

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False
    opened: bool = False

    def text(self, tokenizer: TextTokenizer) -> str:
        """The prompt text in the model's format, with broken control tokens in document text.

        A conversation that ends with the assistant is left open at its end: the model writes on.
        Raises `RowProblem` when the chat template refuses the conversation.
        """
        messages: list[Message] = []
        for turn in self.turns:
            segments = neutralise(turn.segments, tokenizer.control_pattern)
            content = "".join(segment.text for segment in segments)
            message: Message = {"role": turn.role, "content": content}
            if turn.calls:
                message["calls"] = harmless(list(turn.calls), tokenizer.control_pattern)
            if turn.name is not None:
                message["name"] = turn.name
            messages.append(message)
        ends_open = bool(messages) and messages[-1]["role"] == "assistant"
        text = tokenizer.chat.render(
            messages, continue_final=ends_open, tools=self.tools, thinking=self.thinking
        )
        return text + OPEN_THOUGHT if self.opened and not ends_open else text

    def documents(self) -> list[Place]:
        """The place of every document segment that may be cut."""
        return [
            Place(i, j)
            for i, turn in enumerate(self.turns)
            if turn.cuttable
            for j, segment in enumerate(turn.segments)
            if segment.document and segment.text
        ]

    def at(self, place: Place) -> str:
        """The text of the segment at `place`."""
        return self.turns[place.turn].segments[place.segment].text

    def put(self, place: Place, text: str) -> Conversation:
        """A copy of the conversation with another text in the segment at `place`."""
        turn = self.turns[place.turn]
        segments = list(turn.segments)
        segments[place.segment] = replace(segments[place.segment], text=text)
        turns = list(self.turns)
        turns[place.turn] = replace(turn, segments=tuple(segments))
        return replace(self, turns=tuple(turns))

    def blank(self, role: str = "user") -> bool:
        """Whether the turns of `role` have document segments and all of these are only spaces."""
        documents = [
            segment
            for turn in self.turns
            if turn.role == role
            for segment in turn.segments
            if segment.document
        ]
        return bool(documents) and not any(segment.text.strip() for segment in documents)


def harmless(value: Any, pattern: re.Pattern[str]) -> Any:
    """A row's value with broken control tokens in each text of it, also in the names of fields."""
    if isinstance(value, str):
        return neutralise([document(value)], pattern)[0].text
    if isinstance(value, dict):
        return {harmless(name, pattern): harmless(one, pattern) for name, one in value.items()}
    if isinstance(value, list):
        return [harmless(one, pattern) for one in value]
    return value


def literal(text: str) -> Segment:
    """A segment of literal text: it does not come from a row."""
    return Segment(text, False)


def document(text: str) -> Segment:
    """A segment of document text: it comes from a row."""
    return Segment(text, True)


def joined(parts: Sequence[Sequence[Segment]], separator: str) -> tuple[Segment, ...]:
    """The segments of all parts in order, with a literal separator between two parts."""
    segments: list[Segment] = []
    for part in parts:
        if segments:
            segments.append(literal(separator))
        segments += part
    return tuple(segments)
