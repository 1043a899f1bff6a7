"""Calls and thoughts through a real vLLM engine with a tiny Gemma 4."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_batch.family.tiny import build_tiny_gemma
from tests.engines.programs import seen_by
from tests.engines.shaped_gemma4 import LABELS


@pytest.mark.long
def test_calls_and_thoughts_of_a_real_engine(tmp_path: Path, texts: list[str]) -> None:
    """Calls are forced, also behind a thought; thoughts are counted apart; no mark in `output`."""
    model = build_tiny_gemma(tmp_path / "tiny4", generation="gemma4", texts=texts)
    found = seen_by("shaped_gemma4", str(model))

    assert found["text"]["refusal"] is None
    assert "thinking" not in found["text"]
    for name in ("calls", "thoughts and calls"):
        assert found[name]["refusal"] is None, found[name]
        assert found[name]["tool_calls"]
        assert all(call["valid"] for call in found[name]["tool_calls"])
        assert found[name]["output"] == ""
    thoughts = found["thoughts"]
    assert thoughts["refusal"] is None, thoughts
    assert set(thoughts["answer"]) <= set(LABELS)
    assert thoughts["output"] == thoughts["answer"]
    for raw, text in zip(thoughts["raw"], thoughts["thinking"], strict=True):
        assert (text or "") in raw.partition("<channel|>")[0]
    assert all(0 < count <= 13 for count in thoughts["thinking_tokens"]), "the budget and the end"
    assert sum(thoughts["thinking_tokens"]) < thoughts["completion_tokens"]
    said = "the answer was cut off inside the thoughts of the model after 8 tokens"
    assert found["cut off"]["refusal"].startswith(said)
    for name in ("text", "calls", "thoughts and calls"):
        assert not any(mark in found[name]["output"] for mark in ("<|", "|>", "<eos>"))
