"""Answers with a shape by a real vLLM: what is shown to the model again, and what numbers mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gemma_batch.answering.again import REPLY
from tests.engines.programs import seen_by
from tests.engines.shaped_vllm import LABELS, MOST, ROWS, SAMPLED, SEED, STUCK, question

CUT = "the answer was cut off after {} tokens (sampling.max_tokens)"


@pytest.fixture(scope="module")
def seen(tiny: str) -> dict[str, Any]:
    """The record of one engine."""
    return seen_by("shaped_vllm", tiny)


@pytest.mark.long
def test_a_greedy_model_is_shown_its_answer_and_the_fault(seen: dict[str, Any], tiny: str) -> None:
    """Token for token as transformers renders this conversation. Counts add up."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    refused = 0
    for number in range(ROWS):
        row = seen["rows"][str(number)]
        first, *more = row["attempts"]
        assert row["counted"] == 1 + len(more)
        if first["text"] in LABELS:
            assert not more
            continue
        refused += 1
        (second,) = more
        assert (first["reason"], first["sampling"], second["sampling"]) == ("length", {}, {})
        messages = [
            {"role": "user", "content": question(number)},
            {"role": "assistant", "content": first["text"].strip()},
            {"role": "user", "content": REPLY.format(message=CUT.format(MOST))},
        ]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert second["ids"][: len(first["ids"])] == first["ids"]
        assert tokenizer.decode(second["ids"]) == tokenizer.decode(ids)
        assert second["ids"] == ids
        if row["code"] is not None:
            assert (row["code"], row["message"]) == ("invalid_answer", CUT.format(MOST))
            assert row["output"] == second["text"]
    assert refused > 0
    assert seen["retries"]["refused"] == refused + 2, "and the two rows below"


@pytest.mark.long
def test_a_drawn_answer_gets_another_seed(seen: dict[str, Any]) -> None:
    """And the same prompt."""
    first, second = seen["rows"][str(SAMPLED)]["attempts"]
    assert (first["reason"], first["ids"]) == ("length", second["ids"])
    assert first["sampling"]["seed"] == SEED != second["sampling"]["seed"]


@pytest.mark.long
def test_a_row_that_no_token_can_follow_fails_after_a_retry(seen: dict[str, Any]) -> None:
    """It is not tried again as if the cause could pass."""
    row = seen["rows"][str(STUCK)]
    assert [attempt["reason"] for attempt in row["attempts"]] == ["error", "error"]
    assert (row["code"], row["message"], row["output"]) == (
        "invalid_answer",
        "the engine found no way to write the shape",
        "",
    )


@pytest.mark.long
def test_the_probability_is_the_share_among_the_tokens_that_were_allowed(
    seen: dict[str, Any], tiny: str
) -> None:
    """By transformers' logits over the tokens that lead to a label, whatever the temperature."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    ends = list(reference.generation_config.eos_token_id)
    texts = {i: tokenizer.decode([i]) for i in range(len(tokenizer))}
    compared = 0
    for row in seen["rows"].values():
        for attempt in row["attempts"]:
            answer = attempt["written"]
            if attempt["reason"] == "error":
                continue
            with torch.no_grad():
                logits = reference(torch.tensor([[*attempt["ids"], *answer]])).logits[0]
            written = ""
            for place, (text, logprob) in enumerate(attempt["tokens"]):
                allowed = [
                    i
                    for i, one in texts.items()
                    if one
                    and i not in tokenizer.all_special_ids
                    and any(label.startswith(written + one) for label in LABELS)
                ]
                allowed += ends if written in LABELS else []
                step = torch.log_softmax(logits[len(attempt["ids"]) - 1 + place][allowed], 0)
                expected = float(step[allowed.index(answer[place])])
                assert logprob == pytest.approx(expected, abs=1e-3)
                written += text if written not in LABELS else ""
                compared += 1
        if row["code"] is None:
            last = row["attempts"][-1]
            (values,) = row["values"]
            inner = [logprob for text, logprob in last["tokens"] if not text.startswith("<")]
            assert values["confidence"]["label"] == pytest.approx(math.exp(sum(inner)))
            assert 0 < values["confidence"]["label"] <= 1
    assert compared > ROWS
