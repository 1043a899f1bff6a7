"""One row's conversation while it can still change: turns made of segments.

Between the templates and the final text. Knows which characters are document text, so that they
can be neutralised and cut; knows no limits and no policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gemma_batch.prompts.chat import Message
from gemma_batch.prompts.control import neutralise
from gemma_batch.prompts.template import Segment
from gemma_batch.prompts.tokens import Tokenizer


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `cuttable` says whether its document text may be shortened."""

    role: str
    segments: tuple[Segment, ...]
    cuttable: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document segment stands: number of its turn and of the segment in it."""

    turn: int
    segment: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row's turns in order."""

    turns: tuple[Turn, ...]

    def text(self, tokenizer: Tokenizer) -> str:
        """The prompt text in the model's format, control tokens in documents broken.

        Raises `RowProblem` when the chat template refuses the conversation.
        """
        messages: list[Message] = []
        for turn in self.turns:
            segments = neutralise(turn.segments, tokenizer.control_pattern)
            content = "".join(segment.text for segment in segments)
            messages.append({"role": turn.role, "content": content})
        return tokenizer.chat.render(messages)

    def documents(self) -> list[Place]:
        """Every piece of document text that may be cut."""
        return [
            Place(i, j)
            for i, turn in enumerate(self.turns)
            if turn.cuttable
            for j, segment in enumerate(turn.segments)
            if segment.document and segment.text
        ]

    def at(self, place: Place) -> str:
        """The text of one segment."""
        return self.turns[place.turn].segments[place.segment].text

    def put(self, place: Place, text: str) -> Conversation:
        """A copy with the text of one segment replaced."""
        turn = self.turns[place.turn]
        segments = list(turn.segments)
        segments[place.segment] = replace(segments[place.segment], text=text)
        turns = list(self.turns)
        turns[place.turn] = replace(turn, segments=tuple(segments))
        return Conversation(tuple(turns))

    def blank(self, role: str = "user") -> bool:
        """Whether there is document text in the turns of `role` and none of it says anything."""
        documents = [
            segment
            for turn in self.turns
            if turn.role == role
            for segment in turn.segments
            if segment.document
        ]
        return bool(documents) and not any(segment.text.strip() for segment in documents)


def literal(text: str) -> Segment:
    """A piece that no row had a part in."""
    return Segment(text, False)


def document(text: str) -> Segment:
    """A piece that came from a row."""
    return Segment(text, True)


def joined(parts: Sequence[Sequence[Segment]], separator: str) -> tuple[Segment, ...]:
    """The parts one after the other, with a literal separator between them."""
    segments: list[Segment] = []
    for part in parts:
        if segments:
            segments.append(literal(separator))
        segments += part
    return tuple(segments)
