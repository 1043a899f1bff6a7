"""Patterns: regular expressions that mean the same everywhere (every process).

Python, the engine's grammar and RE2 read some regular expressions differently. So a pattern is read
once, by Python's parser, and written again from sets of characters, repetitions and alternatives
only: the few signs that all of them read alike. A pattern means a whole text: `^` at its start and
`$` at its end change nothing. `\\d`, `\\w` and `\\s` mean the characters of ASCII.
"""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

MAX_CHARS = 10_000  # of a pattern
MOST = 1000  # repetitions of one thing, which is RE2's limit
LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)  # no text in UTF-8 has them
# In JSON these must be written with a backslash, which a pattern in a JSON schema cannot say.
NEVER_IN_JSON = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
DIGITS = ((0x30, 0x39),)
WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE = ((0x09, 0x0D), (0x20, 0x20))
CLASSES = {"DIGIT": DIGITS, "WORD": WORD, "SPACE": SPACE}
SPECIAL = frozenset(r"\.^$*+?()[]{}|-/")
BREAKS = {"\t": r"\t", "\n": r"\n", "\v": r"\v", "\f": r"\f", "\r": r"\r"}
NUL = ((0, 0),)  # which vLLM does not take in a pattern
NICE = ((0x61, 0x7A), (0x30, 0x39), (0x41, 0x5A), (0x20, 0x20))  # what an example prefers
CANNOT = {
    "ASSERT": "looks ahead or behind",
    "ASSERT_NOT": "looks ahead or behind",
    "GROUPREF": "refers back to a group",
    "GROUPREF_EXISTS": "refers back to a group",
    "ATOMIC_GROUP": "has an atomic group",
    "POSSESSIVE_REPEAT": "has a possessive repetition",
}

Ranges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character of a set, given as ascending ranges of code points, ends included."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequenced:
    """One thing after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several things."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A thing `least` to `most` times; `most` None means any number."""

    item: Node
    least: int
    most: int | None


Node: TypeAlias = OneOf | Sequenced | Either | Repeated


@functools.lru_cache(maxsize=4096)
def parsed(pattern: str, *, json: bool = False) -> Node:
    """A regular expression as a tree.

    With `json`, it is a string's content inside JSON, where a character that JSON writes with a
    backslash cannot stand. Raises `ValueError` with the reason when it cannot be had.
    """
    if len(pattern) > MAX_CHARS:
        raise ValueError(f"it has {len(pattern):,} characters, and {MAX_CHARS:,} are the most")
    parser = importlib.import_module("re._parser")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = parser.parse(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as err:
        raise ValueError(f"Python cannot read it: {err}") from None
    if tree.state.flags & ~re.ASCII:
        raise ValueError("it sets a flag such as (?i): write the characters that are meant")
    return _sequence(tree, never=NEVER_IN_JSON if json else (), first=True, last=True)


def _sequence(items: Any, *, never: Ranges, first: bool, last: bool) -> Node:
    """A run of items; `first` and `last` say whether it begins and ends the whole pattern."""
    found: list[Node] = []
    items = list(items)
    for place, (op, value) in enumerate(items):
        begins, ends = first and place == 0, last and place == len(items) - 1
        found += _item(str(op), value, never=never, first=begins, last=ends)
    return found[0] if len(found) == 1 else Sequenced(tuple(found))


def _item(op: str, value: Any, *, never: Ranges, first: bool, last: bool) -> list[Node]:
    if op == "AT":
        at = str(value)
        if (first and at.startswith("AT_BEGINNING")) or (last and at.startswith("AT_END")):
            return []
        if at.endswith("BOUNDARY"):
            raise ValueError("it has a word boundary, \\b or \\B, which no engine can enforce")
        raise ValueError("it has ^ or $ elsewhere than at its start or end: leave them out")
    if op == "SUBPATTERN":
        _, added, removed, inner = value
        if added or removed:
            raise ValueError("it sets a flag such as (?i): write the characters that are meant")
        return [_sequence(inner, never=never, first=first, last=last)]
    if op == "BRANCH":
        ways = [_sequence(way, never=never, first=first, last=last) for way in value[1]]
        return [Either(tuple(ways))]
    if op in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        limit = None if str(most) == "MAXREPEAT" else int(most)
        if max(least, limit or 0) > MOST:
            raise ValueError(f"it repeats something more than {MOST:,} times")
        item = _sequence(inner, never=never, first=False, last=False)
        return [Repeated(item, int(least), limit)]
    if op in CANNOT:
        raise ValueError(f"it {CANNOT[op]}, which no engine can enforce")
    ranges = _without(_ranges(op, value), (*never, *NUL, SURROGATES))
    if not ranges:
        raise ValueError(
            "it needs a character that JSON writes with a backslash, such as a quotation mark or "
            "a line break, which the engine cannot write in a string with a pattern"
            if never
            else "it has a set without a character"
        )
    return [OneOf(ranges)]


def _ranges(op: str, value: Any) -> Ranges:
    if op == "LITERAL":
        return ((value, value),)
    if op == "NOT_LITERAL":
        return _without(((0, LAST),), ((value, value),))
    if op == "ANY":
        return _without(((0, LAST),), ((10, 10),))
    if op == "RANGE":
        return ((value[0], value[1]),)
    if op == "CATEGORY":
        name = str(value).removeprefix("CATEGORY_").removeprefix("UNI_")
        inner = CLASSES[name.removeprefix("NOT_")]
        return _without(((0, LAST),), inner) if name.startswith("NOT_") else inner
    if op != "IN":
        raise ValueError(f"it has {op.lower().replace('_', ' ')}, which no engine can enforce")
    negated = any(str(kind) == "NEGATE" for kind, _ in value)
    inner = tuple(
        one for kind, part in value if str(kind) != "NEGATE" for one in _ranges(str(kind), part)
    )
    inner = _merged(inner)
    return _without(((0, LAST),), inner) if negated else inner


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def _without(ranges: Ranges, taken: Iterable[tuple[int, int]]) -> Ranges:
    left = list(ranges)
    for low, high in taken:
        left = [
            part
            for start, end in left
            for part in ((start, min(end, low - 1)), (max(start, high + 1), end))
            if part[0] <= part[1]
        ]
    return _merged(left)


def written(node: Node) -> str:
    """The tree as a regular expression that xgrammar, RE2 and Python read alike."""
    if isinstance(node, OneOf):
        (low, high), *more = node.ranges
        if low == high and not more:
            return _sign(low)
        return f"[{''.join(_span(*one) for one in node.ranges)}]"
    if isinstance(node, Sequenced):
        return "".join(
            f"(?:{written(one)})" if isinstance(one, Either) else written(one) for one in node.items
        )
    if isinstance(node, Either):
        return "|".join(written(one) for one in node.items)
    inner = written(node.item)
    if isinstance(node.item, OneOf):
        return inner + _times(node.least, node.most)
    if node.most == 0:
        return ""
    # xgrammar 0.2.8 goes on from the middle of a group that it has left out, so that a(?:b*c)?
    # would allow `ab`. The empty alternative says the same and is read rightly.
    repeated = f"(?:{inner}){_times(max(1, node.least), node.most)}"
    return repeated if node.least else f"(?:|{repeated})"


def _times(least: int, most: int | None) -> str:
    counts = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    end = "" if most is None else most
    return counts.get((least, most), f"{{{least},{end}}}")


def _span(low: int, high: int) -> str:
    return _sign(low) if low == high else f"{_sign(low)}-{_sign(high)}"


def _sign(code: int) -> str:
    char = chr(code)
    return BREAKS.get(char, f"\\{char}" if char in SPECIAL else char)


def example(node: Node, random: Random, *, more: int = 3) -> str:
    """A text that matches the tree; with `more` 0, about the shortest."""
    if isinstance(node, OneOf):
        return chr(_choose(node.ranges, random))
    if isinstance(node, Sequenced):
        return "".join(example(one, random, more=more) for one in node.items)
    if isinstance(node, Either):
        if not more:
            return min((example(one, random, more=0) for one in node.items), key=len)
        return example(random.choice(node.items), random, more=more)
    most = node.least + more if node.most is None else min(node.most, node.least + more)
    count = random.randint(node.least, most)
    return "".join(example(node.item, random, more=more) for _ in range(count))


def _choose(ranges: Sequence[tuple[int, int]], random: Random) -> int:
    nice = [
        (max(low, a), min(high, b))
        for low, high in ranges
        for a, b in NICE
        if max(low, a) <= min(high, b)
    ]
    return random.randint(*random.choice(nice or list(ranges)))


def shortest(pattern: str) -> str:
    """About the shortest text that matches a pattern."""
    return example(parsed(pattern), Random(0), more=0)


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str, *, json: bool) -> str:
    return rf"\A(?:{written(parsed(pattern, json=json))})\z"


def matches(pattern: str, text: str, *, json: bool = False) -> bool:
    """Whether the whole text matches, in time that grows with the length of the text only."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        found = pc.match_substring_regex(
            pa.array([text], pa.string()), pattern=_compiled(pattern, json=json)
        )
    except UnicodeEncodeError:
        return False  # half of a surrogate pair
    return bool(found[0].as_py())


def check(pattern: str, *, json: bool = False) -> None:
    """Raise `ValueError` with the reason when a pattern cannot be enforced and checked."""
    import pyarrow as pa

    if example(node := parsed(pattern, json=json), Random(0)) == "" and not written(node):
        raise ValueError("it matches the empty text only")
    try:
        matches(pattern, "", json=json)
    except pa.ArrowInvalid:
        raise ValueError("it is too large: it repeats too much within a repetition") from None
