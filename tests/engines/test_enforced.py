"""Shapes that an engine can enforce, by the rules of the plan and by the vLLM at hand."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.narrowed import narrowed
from gemma_batch.answering.text_shapes import Grammar, Regex
from gemma_batch.engines import grammars
from gemma_batch.engines.base import engine_class
from gemma_batch.engines.dry_answers import dry_answer
from gemma_batch.engines.enforced import check_rules
from gemma_batch.spec.json_schema import check_schema
from tests.engines.structures import ENFORCED, NOT_ENFORCED

SUMS = """root ::= number ((" + " | " - ") number)*
number ::= [1-9] [0-9]{0,2} | "(" root ")"
"""


@pytest.mark.parametrize("schema", ENFORCED)
def test_a_schema_that_can_be_enforced_is_taken(schema: dict[str, Any]) -> None:
    """As it is written, and as the engine gets it."""
    if schema:
        check_schema(schema)
    for form in (schema, narrowed(schema)):
        check_rules({"json": json.dumps(form)})


@pytest.mark.parametrize(("schema", "sentence", "text"), NOT_ENFORCED)
def test_a_schema_that_cannot_be_enforced_is_refused(
    schema: dict[str, Any], sentence: str, text: str | None
) -> None:
    """In a sentence, also in the form in which the engine gets it; the text does break it."""
    for form in (schema, narrowed(schema)):
        with pytest.raises(ValueError, match=rf"^schema: the schema.*{sentence}"):
            check_rules({"json": json.dumps(form)})
    if text is not None:
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        theirs = jsonschema.Draft202012Validator(schema, format_checker=checker)
        assert not theirs.is_valid(json.loads(text))


def test_the_rules_are_those_of_the_vllm_at_hand(theirs: dict[str, Any]) -> None:
    """It takes what the plan takes. What the plan refuses it refuses too, or does not enforce."""
    found = theirs["structures"]
    assert [s for s, ok in zip(ENFORCED, found["enforced"], strict=True) if not ok] == []
    wrong = [
        (schema, text)
        for (schema, _, text), ok in zip(NOT_ENFORCED, found["not enforced"], strict=True)
        if ok is (text is None)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("structure", "sentence"),
    [
        ({"grammar": "root ::= "}, "grammar: xgrammar, which enforces it, refuses it: .*Expect"),
        ({"grammar": 'root ::= "a" | other'}, "grammar: xgrammar.* refuses it: .*other"),
        (
            {"json": '{"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}'},
            "schema: xg",
        ),
    ],
)
def test_xgrammar_is_asked_where_it_is_installed(structure: dict[str, str], sentence: str) -> None:
    """Before an engine starts, with the reason that it gives."""
    pytest.importorskip("xgrammar")
    with pytest.raises(ValueError, match=sentence):
        engine_class("vllm").check_structure(structure)


def test_without_xgrammar_a_grammar_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan says so. A dry run could not answer, so it is refused."""
    monkeypatch.setattr(grammars, "installed", lambda: False)
    (note,) = engine_class("vllm").check_structure({"grammar": SUMS})
    assert "was not looked at" in note
    assert engine_class("vllm").check_structure({"json": "{}"}) == []
    with pytest.raises(ValueError, match="grammar: a dry run makes its answers with xgrammar"):
        engine_class("echo").check_structure({"grammar": SUMS})


@pytest.mark.parametrize(
    ("text", "reason", "sentence"),
    [
        ("1 + (22 - 3)", "stop", None),
        ("1 + (22 - 3", "stop", "does not follow answer.grammar"),
        ("1 + 22", "length", "cut off"),
        ("", "stop", "does not follow"),
        ("1\ud800", "stop", "does not follow"),
    ],
)
def test_an_answer_follows_its_grammar_to_the_end(
    text: str, reason: str, sentence: str | None
) -> None:
    """One that was cut off might have gone on."""
    pytest.importorskip("xgrammar")
    sample = Sample(text, reason)
    refusal = Grammar(SUMS).read(sample)
    assert (refusal is None) == (sentence is None)
    assert refusal is None or sentence in refusal.message  # type: ignore[operator]
    assert sample.values == ({} if refusal else {"answer": text})


@pytest.mark.parametrize(
    ("text", "reason", "accepted"),
    [("ab1", "stop", True), ("ab1", "length", False), ("ab12", "stop", False), ("", "stop", False)],
)
def test_an_answer_matches_its_pattern_as_a_whole(text: str, reason: str, accepted: bool) -> None:
    """From its start to its end."""
    sample = Sample(text, reason)
    assert (Regex(r"[a-c]+\d").read(sample) is None) == accepted
    assert sample.values == ({"answer": text} if accepted else {})


def test_dry_answers_differ_by_the_prompt_and_not_by_the_run() -> None:
    """Of a grammar and of a pattern; each passes the check of a real answer."""
    pytest.importorskip("xgrammar")
    for reader in (Grammar(SUMS), Regex(r"(red|green|blue) [0-9]{1,3}")):
        structure = reader.asks()["structured_outputs"]
        texts = [dry_answer(structure, [n, 7]) for n in range(20)]
        assert texts == [dry_answer(structure, [n, 7]) for n in range(20)]
        assert len(set(texts)) > 5
        assert all(reader.read(Sample(text, "stop")) is None for text in texts)
    assert grammars.follows(SUMS, grammars.example(SUMS, Random(5)))
