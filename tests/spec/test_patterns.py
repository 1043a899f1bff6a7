"""Regular expressions that Python, RE2 and the engine read alike."""

from __future__ import annotations

import re
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.spec import patterns


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{3}-[a-z]+",
        r"^(foo|bar)?\w*$",
        r'[^\n"]{2,5}',
        r".",
        "é|[α-ω]{1,}",
        r"a{,3}",
        r"\.\-\]\[\^",
        r"\x41\u00e9\U0001F600",
        r"[\s\S]*",
        r"(?P<n>a)b",
        r"a*?b",
        r"(?:)|x",
        r"[\w.-]+@\w+\.com",
        "-]/\"'",
        r"\S+\D\W[^\d\s]",
    ],
)
def test_a_pattern_means_the_same_once_it_is_written_again(pattern: str) -> None:
    """Its examples match it by Python, as does what RE2 says of texts near them."""
    patterns.check(pattern)
    node = patterns.parsed(pattern)
    for seed in range(20):
        random = Random(seed)
        text = patterns.example(node, random)
        assert re.fullmatch(pattern, text, re.ASCII)
        assert re.fullmatch(patterns.written(node), text)
        for near in (text, text[1:], text + random.choice(["x", "\n", '"', " ", "é", "7"])):
            assert patterns.matches(pattern, near) == bool(re.fullmatch(pattern, near, re.ASCII))
    assert re.fullmatch(pattern, patterns.shortest(pattern), re.ASCII)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (r"(?=a)b", "looks ahead or behind"),
        (r"(?<!a)b", "looks ahead or behind"),
        (r"\bfoo", "word boundary"),
        (r"(?i)a", "sets a flag"),
        (r"(?i:a)", "sets a flag"),
        (r"(a)\1", "refers back"),
        (r"a$b", "elsewhere than at its start or end"),
        (r"(?:^a)+", "elsewhere than at its start or end"),
        (r"a++", "possessive"),
        (r"(?>a)", "atomic"),
        ("(", "Python cannot read it: missing"),
        ("a{2000}", "more than 1,000 times"),
        ("(?:a{0,900}){0,900}", "too large"),
        ("", "the empty text only"),
        ("a" * 20_000, "20,000 characters"),
        (r"[^\s\S]", "a set without a character"),
    ],
)
def test_what_an_engine_cannot_enforce_is_refused(pattern: str, sentence: str) -> None:
    """With the reason."""
    with pytest.raises(ValueError, match=sentence):
        patterns.check(pattern)


def test_in_json_no_pattern_needs_a_backslash() -> None:
    """A set loses the characters that JSON writes with one; a pattern of only such is refused."""
    assert not patterns.matches(".", '"', json=True)
    assert not patterns.matches(r"\s", "\t", json=True)
    assert patterns.matches(r"\s", " ", json=True)
    for pattern in ('a"b', r"\\", r"\n"):
        with pytest.raises(ValueError, match="JSON writes with a backslash"):
            patterns.check(pattern, json=True)


def test_a_long_text_cannot_stop_the_check() -> None:
    """Python's own `re` would need longer than the universe is old for this one."""
    started = time.process_time()
    assert not patterns.matches("(a+)+b", "a" * 5000)
    assert time.process_time() - started < 5


SIGNS = st.sampled_from(["a", "b", r"\d", "[a-c]", "[^b]", ".", "é", " "])
TREES = st.recursive(
    SIGNS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
    ),
    max_leaves=6,
)


@given(TREES, st.text("abc1 é\n", max_size=6))
def test_any_pattern_matches_as_python_says(pattern: str, text: str) -> None:
    """Also where alternatives and repetitions stand in each other."""
    wanted = bool(re.fullmatch(pattern, text, re.ASCII))
    assert patterns.matches(pattern, text) == wanted
    written = patterns.written(patterns.parsed(pattern))
    assert bool(re.fullmatch(written, text)) == wanted
