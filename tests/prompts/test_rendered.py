"""A prompt is one value: it survives its way, and a new kind needs no change elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.answering.order import RowQueue
from gemma_batch.prompts import rendered
from gemma_batch.prompts.rendered import TokenPrompt, decode_prompt, token_ids
from gemma_batch.rows import Request
from gemma_batch.units.payload import Prepared, decode, encode
from gemma_batch.units.unit import Unit


@given(st.lists(st.integers(0, 262_143), max_size=300))
def test_token_ids_survive_their_way(ids: list[int]) -> None:
    """As they were, in the same order, with the same length."""
    prompt = TokenPrompt(ids)
    assert decode_prompt(prompt.kind, prompt.encode()) == prompt
    assert prompt.tokens == len(ids)


def test_half_a_token_is_no_prompt() -> None:
    """A payload that was cut short is not answered."""
    with pytest.raises(ValueError, match="multiple"):
        decode_prompt("tokens", TokenPrompt([1, 2]).encode()[:-1])


@dataclass(frozen=True)
class CaptionPrompt:
    """The next kind of prompt: text with a picture, by its address."""

    ids: list[int]
    picture: str
    kind: ClassVar[str] = "caption"

    @property
    def tokens(self) -> int:
        return len(self.ids) + 256

    def sort_key(self) -> bytes:
        return TokenPrompt(self.ids).sort_key() + self.picture.encode()

    def encode(self) -> bytes:
        return f"{self.picture}|{' '.join(map(str, self.ids))}".encode()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> CaptionPrompt:
        picture, _, ids = bytes(data).decode().partition("|")
        return cls([int(i) for i in ids.split()], picture)


def test_a_new_kind_of_prompt_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It travels to the actor beside prompts of text, and is put in order there."""
    monkeypatch.setitem(rendered.KINDS, CaptionPrompt.kind, CaptionPrompt.decode)
    prompts = [CaptionPrompt([2, 9], "b.png"), TokenPrompt([2, 5]), CaptionPrompt([2, 9], "a.png")]
    prepared = Prepared(
        unit=Unit(shard=0, first_row=0, rows=3, mark=0, bytes=1, route="all", expected=3),
        numbers=[0, 1, 2],
        ids=["a", "b", "c"],
        keep=pa.table({}),
        raw=pa.py_buffer(b""),
        requests=[Request(n, prompt) for n, prompt in enumerate(prompts)],
        failures={},
    )
    row = encode(prepared)
    arrived = decode(row["unit"][0].as_py(), row["rows"][0].as_buffer()).requests
    assert [request.prompt for request in arrived] == prompts
    queue: RowQueue[Request] = RowQueue("prefix", lambda request: request)
    queue.add(arrived)
    assert [queue.pop().number for _ in arrived] == [1, 2, 0]
    with pytest.raises(TypeError, match="'caption' is more than token ids"):
        token_ids(prompts[0])
