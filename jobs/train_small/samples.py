"""Samples: messages become token ids to train on: varied, evenly by language, batched by length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from tokenizers import Tokenizer

from gemma_batch.family.chat_templates import CHAT_TEMPLATES
from jobs.train_small.labels import LANGUAGES, prompt_for
from jobs.train_small.messages import Message

CUT = 0.1  # chance between two characters to cut a word there, so that it has other tokens
WHOLE = 0.5  # chance that nothing in a message is cut
PART, LOWER, CAPITALS = 0.5, 0.1, 0.03  # chances to take a part of a message, or another case
SHORTEST_PART = 12  # characters
SORTED = 64  # batches whose messages are sorted by length together


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of prompts and labels, each row filled up with padding at its end."""

    ids: list[list[int]]
    starts: list[int]  # the first token of each message
    ends: list[int]  # the last token of each prompt; the label follows
    labels: list[int]  # index into LANGUAGES


def render(text: str) -> str:
    """The prompt with this text as the product renders it, <bos> included."""
    import jinja2

    template = jinja2.Environment(autoescape=False).from_string(CHAT_TEMPLATES["gemma3"])
    turn = {"role": "user", "content": prompt_for(text)}
    return template.render(bos_token="<bos>", messages=[turn], add_generation_prompt=True)


class Encoder:
    """Encodes prompts with the tokenizer in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        before, after = render("@").split("@")
        # Text is between control tokens and line ends, so its tokens are the same on their own.
        self.before, self.after = self._ids(before), self._ids(after)
        self.labels = [self._one(language) for language in LANGUAGES]
        self.end = self._one("<end_of_turn>")

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """The ids of the prompts with these texts."""
        found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[*self.before, *one.ids, *self.after] for one in found]

    def cut_prompts(self, texts: list[str], cut: float, rng: random.Random) -> list[list[int]]:
        """Like `prompts`, but with texts that are cut by chance, and each piece encoded alone."""
        pieces, counts = [], []
        for text in texts:
            whole = rng.random() < WHOLE
            places = [i for i in range(1, len(text)) if not whole and rng.random() < cut]
            bounds = [0, *places, len(text)]
            pieces += [text[i:j] for i, j in pairwise(bounds)]
            counts.append(len(places) + 1)
        found = iter(self._tokenizer.encode_batch(pieces, add_special_tokens=False))
        ids = ([i for one in islice(found, count) for i in one.ids] for count in counts)
        return [[*self.before, *one, *self.after] for one in ids]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _one(self, text: str) -> int:
        (token,) = self._ids(text)
        return token


def vary(text: str, rng: random.Random) -> str:
    """The text, or a part of it, sometimes in other case."""
    if rng.random() < PART and len(text) > SHORTEST_PART:
        size = rng.randint(SHORTEST_PART, len(text))
        start = rng.randint(0, len(text) - size)
        if start and (space := text.find(" ", start)) > 0 and len(text) - space > SHORTEST_PART:
            start = space + 1
        text = text[start : start + size]
        if rng.random() < 0.7 and " " in text[SHORTEST_PART:]:
            text = text.rpartition(" ")[0]
    chance = rng.random()
    if chance < LOWER:
        text = text.lower()
    elif chance < LOWER + CAPITALS:
        text = text.upper()
    return text.strip()


def batches(
    messages: list[Message], encoder: Encoder, *, count: int, tokens: int, seed: int
) -> Iterator[Batch]:
    """Batches of about `tokens` tokens with padding; `count` messages, evenly by language."""
    rng = random.Random(seed)
    drawn = _draw(messages, rng)
    pool = SORTED * tokens // 32
    for start in range(0, count, pool):
        chosen = [next(drawn) for _ in range(min(pool, count - start))]
        prompts = encoder.cut_prompts([vary(one.text, rng) for one in chosen], CUT, rng)
        order = sorted(range(len(chosen)), key=lambda i: len(prompts[i]))
        groups = list(_groups([len(prompts[i]) + 1 for i in order], tokens))
        rng.shuffle(groups)
        for first, last in groups:
            rows = [(prompts[i], LANGUAGES.index(chosen[i].language)) for i in order[first:last]]
            yield _batch(rows, encoder)


def _draw(messages: list[Message], rng: random.Random) -> Iterator[Message]:
    """Languages in turn; each language's messages in random order, all before any again."""
    groups = [[one for one in messages if one.language == language] for language in LANGUAGES]
    left: list[list[Message]] = [[] for _ in groups]
    while True:
        for i, group in enumerate(groups):
            if not left[i]:
                left[i] = rng.sample(group, len(group))
            yield left[i].pop()


def _groups(lengths: list[int], tokens: int) -> Iterator[tuple[int, int]]:
    """Runs of lengths, which rise, that fill a batch of so many tokens."""
    first = 0
    for last, length in enumerate(lengths):
        if (last - first + 1) * length > tokens and last > first:
            yield first, last
            first = last
    yield first, len(lengths)


def _batch(rows: list[tuple[list[int], int]], encoder: Encoder) -> Batch:
    width = max(len(prompt) for prompt, _ in rows) + 1
    ids = []
    for prompt, label in rows:
        row = [*prompt, encoder.labels[label]]
        ids.append(row + [0] * (width - len(row)))
    return Batch(
        ids=ids,
        starts=[len(encoder.before)] * len(rows),
        ends=[len(prompt) - 1 for prompt, _ in rows],
        labels=[label for _, label in rows],
    )
