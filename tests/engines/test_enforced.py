"""Shapes that an engine can enforce, by the rules of the plan and by the vLLM at hand."""

from __future__ import annotations

import itertools
import json
import re
import string
from random import Random
from typing import Any

import jsonschema
import pytest

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.json_answers import JsonAnswer
from gemma_batch.answering.text_shapes import Grammar, Regex
from gemma_batch.engines import grammars
from gemma_batch.engines.base import engine_class
from gemma_batch.engines.dry_answers import dry_answer
from gemma_batch.engines.enforced import check_rules, check_structure
from gemma_batch.engines.forced_calls import forced_schema
from gemma_batch.engines.narrowed import narrowed
from gemma_batch.spec import Tools
from gemma_batch.spec.json_schema import check_schema
from tests.engines.structures import ENFORCED, NOT_ENFORCED
from tests.spec.test_tools import RICH as FUNCTION

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


RICH = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "day": {"type": "string", "format": "date"},
        "at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "clock": {"type": "string", "format": "time"},
        "count": {"type": "integer"},
        "few": {"type": ["integer", "null"], "minimum": 1},
        "code": {"type": "string", "pattern": r"^[A-Z]{2}-.\d$"},
        "tags": {"type": "array", "items": {"enum": ["x", "y\\z", 'q"']}, "maxItems": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["name", "day", "at", "clock", "count", "code", "tags"],
}


def grammar_of(schema: dict[str, Any]) -> Any:
    """The engine's grammar of a schema, for a vocabulary of single bytes."""
    import xgrammar

    words = [bytes([value]) for value in range(256)] + [b"</s>"]
    table = xgrammar.TokenizerInfo(words, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[256])
    return xgrammar.GrammarCompiler(table).compile_json_schema(
        json.dumps(schema), any_whitespace=False, separators=(",", ":")
    )


def random_walk(grammar: Any, random: Random) -> str | None:
    """A text that the engine's grammar lets a model without any sense write, byte by byte; None
    when it does not come to an end."""
    import xgrammar

    matcher, mask = xgrammar.GrammarMatcher(grammar), xgrammar.allocate_token_bitmask(1, 257)
    found = bytearray()
    while len(found) < 600:
        matcher.fill_next_token_bitmask(mask)
        bits = mask[0].tolist()
        allowed = [n for n in range(257) if bits[n // 32] >> (n % 32) & 1]
        if 256 in allowed:
            return found.decode()
        closing = [n for n in allowed if n in b'"]},']
        token = random.choice(closing if closing and random.random() < 0.3 else allowed)
        assert matcher.accept_token(token)
        found.append(token)
    return None


def test_whatever_the_engine_can_write_has_a_place_in_its_column() -> None:
    """By the grammar of the narrowed schema: a model that writes at random between its masks."""
    pytest.importorskip("xgrammar")
    read = 0
    for schema in (RICH, *(one for one in ENFORCED if one and "oneOf" not in one)):
        reader, grammar = JsonAnswer(schema), grammar_of(narrowed(schema))
        for seed in range(20 if schema is RICH else 3):
            text = random_walk(grammar, Random(seed))
            if text is not None:
                refusal = reader.read(Sample(text, "stop"))
                assert refusal is None, (schema, text, refusal)
                read += 1
    assert read > 80


def random_pattern(random: Random, depth: int) -> str:
    """A pattern of a, b and c, with alternatives and repetitions in each other."""
    choice = random.random()
    if depth == 0 or choice < 0.3:
        return random.choice(["a", "b", "[ab]", "c"])
    one = random_pattern(random, depth - 1)
    if choice < 0.6:
        return one + random_pattern(random, depth - 1)
    if choice < 0.75:
        return f"(?:{one}|{random_pattern(random, depth - 1)})"
    return f"(?:{one}){random.choice(['*', '+', '?', '{2}', '{0,2}', '{1,3}', '{2,}'])}"


@pytest.mark.parametrize("pattern", ["a(?:b*c)?b", "a(?:b[a-c]{1,3})?c", "(?:a|b*)*c", "a.c"])
@pytest.mark.parametrize("seed", range(5))
def test_the_engine_reads_a_pattern_as_python_does(pattern: str, seed: int) -> None:
    """As an answer and as a string in JSON: it lets through what matches, and nothing else."""
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    random = Random(f"{pattern}{seed}")
    texts = ["".join(text) for n in range(5) for text in itertools.product("abc", repeat=n)]
    for one in (pattern, random_pattern(random, 3)):
        (alone,) = Regex(one).asks()["structured_outputs"].values()
        inside = narrowed({"type": "string", "pattern": one})
        outer = xgrammar.Grammar.from_regex(alone)
        inner = xgrammar.Grammar.from_json_schema(json.dumps(inside))
        for text in texts:
            wanted = bool(re.fullmatch(one, text))
            assert accepts(outer, text) == wanted, (one, alone)
            assert accepts(inner, f'"{text}"') == wanted, (one, inside)


@pytest.mark.parametrize(
    "sign", [*string.punctuation, " ", "\t", "\n", "\v", "\x01", "\x7f", "é", "😀"]
)
def test_the_engine_reads_every_sign_as_it_is_meant(sign: str) -> None:
    """Alone and in a set, also before letters that would make a number of it."""
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    for pattern in (f"{re.escape(sign)}0a", f"[{re.escape(sign)}0]0a"):
        (written,) = Regex(pattern).asks()["structured_outputs"].values()
        grammar = xgrammar.Grammar.from_regex(written)
        assert accepts(grammar, f"{sign}0a")
        assert not accepts(grammar, f"x{sign}0a")
        assert not accepts(grammar, "a")
        assert Regex(pattern).read(Sample(f"{sign}0a", "stop")) is None


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


def test_the_engine_knows_the_schema_of_calls_and_a_dry_run_meets_it() -> None:
    """The rules of schemas hold, xgrammar takes it whole, and a dry run answers by it."""
    tools = Tools(definitions=(FUNCTION, {"name": "g"}), choice="required")
    text = json.dumps(forced_schema(tools))
    assert check_structure({"json": text}) == []
    found = set()
    for number in range(20):
        calls = json.loads(dry_answer({"json": text}, [number]))
        jsonschema.validate(calls, json.loads(text))
        found |= {call["name"] for call in calls}
    assert found == {"f", "g"}
