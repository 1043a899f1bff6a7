"""Grammars: what xgrammar, which enforces the shapes of answers in vLLM, says of them.

xgrammar is a part of a vLLM installation and takes seconds to import, so it is imported only where
it is asked (driver, laptop, GPU actor).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import time
from collections.abc import Sequence
from random import Random
from typing import Any

END = 256  # the token after the 256 bytes, which ends a text
LONG, LONGEST = 64, 4000  # bytes of an example after which it ends when it can, and when it must
# What an example prefers, so that people can read it.
READABLE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def installed() -> bool:
    """Whether xgrammar can be imported here."""
    return importlib.util.find_spec("xgrammar") is not None


def _library() -> Any:
    return importlib.import_module("xgrammar")


@functools.lru_cache(maxsize=64)
def fault(kind: str, text: str) -> str | None:
    """Why xgrammar refuses a shape (`json`, `regex` or `grammar`); None when it takes it."""
    grammar = _library().Grammar
    read = {
        "json": grammar.from_json_schema,
        "regex": grammar.from_regex,
        "grammar": grammar.from_ebnf,
    }
    try:
        read[kind](text)
    except Exception as err:  # RuntimeError today; whatever it is, an engine would refuse as well
        last = str(err).strip().splitlines()[-1]
        return re.sub(r"^\[[\d:]+\] \S+: ", "", last)[:300]
    return None


@functools.lru_cache(maxsize=64)
def _by_bytes(grammar: str) -> Any:
    """A grammar, compiled for a vocabulary of single bytes."""
    library = _library()
    vocabulary = library.TokenizerInfo(
        [bytes([value]) for value in range(END)] + [b"</s>"],
        vocab_type=library.VocabType.RAW,
        stop_token_ids=[END],
    )
    return library.GrammarCompiler(vocabulary).compile_grammar(grammar)


def follows(grammar: str, text: str) -> bool:
    """Whether the whole text follows a grammar."""
    matcher = _library().GrammarMatcher(_by_bytes(grammar), terminate_without_stop_token=True)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return False  # half of a surrogate pair
    return bool(matcher.accept_string(data) and matcher.is_terminated())


def example(grammar: str, random: Random) -> str:
    """A text that follows a grammar; it may break off where the grammar finds no end by chance."""
    library = _library()
    matcher = library.GrammarMatcher(_by_bytes(grammar))
    mask = library.allocate_token_bitmask(1, END + 1)
    found = bytearray()
    while len(found) < LONGEST:
        matcher.fill_next_token_bitmask(mask)
        words = mask[0].tolist()
        allowed = [n for n in range(END + 1) if words[n // 32] >> (n % 32) & 1]
        if END in allowed and (len(found) >= LONG or len(allowed) == 1 or random.random() < 0.25):
            break
        allowed = [n for n in allowed if n != END]
        nice = [n for n in allowed if n in READABLE]
        token = random.choice(nice if nice and random.random() < 0.75 else allowed)
        matcher.accept_token(token)
        found.append(token)
    return found.decode(errors="replace")


def seconds_to_compile(
    kind: str, text: str, vocabulary: Sequence[str], ends: Sequence[int]
) -> float:
    """How long an engine with this vocabulary takes for a shape, without its table of the
    vocabulary, which it makes once."""
    library = _library()
    table = library.TokenizerInfo(
        list(vocabulary),
        vocab_type=library.VocabType.BYTE_FALLBACK,
        stop_token_ids=list(ends),
    )
    compiler = library.GrammarCompiler(table)
    compile_it = {
        "json": compiler.compile_json_schema,
        "regex": compiler.compile_regex,
        "grammar": compiler.compile_grammar,
    }
    started = time.perf_counter()
    compile_it[kind](text)
    return time.perf_counter() - started
