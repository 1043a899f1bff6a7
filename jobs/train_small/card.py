"""Card: the README.md of a trained model, from its metrics: data, licences, accuracy, limits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gemma_batch.family.card import card_from_config
from jobs.train_small.labels import LANGUAGES, PROMPT
from jobs.train_small.packages import PACKAGES

CARD = """\
# language-{size}: which language is a short message?

A Gemma 3 of {params:,} parameters ({layers} layers, {vocab:,} tokens), trained from nothing for one
task: it answers with the ISO 639-1 code of the language of a short message. It knows {count}
languages:
{languages}.

- Prompt (the chat template of the model does the rest): `{prompt}`
- Answer: one of the codes, one token, then the end of the turn. Best with
  `answer: {{choice: [...]}}`.
- Weights: bfloat16, {megabytes:.1f} MB. Licence of the weights: Apache-2.0, as of this repository.

## Accuracy

On messages of packages that the model was not trained on. "Choice" takes the most probable of the
codes; "free" is the greedy answer, which must be the code and nothing else.

{overall}

Trained again by the same program:

{again}

By language, over all messages (choice):

{by_language}

By length of the message in characters (choice):

{by_length}

## Data

Message catalogues (.mo) inside wheels of the Python package index: translations of the texts of
programs, and for English the texts themselves. No texts of users, no web pages. Cleaned: without
placeholders, tags and addresses, 15 to 200 characters, no text twice, none that stands in two
languages. No message of a tested package was trained on, not even in other case or punctuation.

{packages}

## Training

`python -m jobs.train_small train FOLDER --size {size} --seed {seed}` in a clone of this repository:
{looked_at:,} messages, equally many of each language, in {seconds} s in one thread, while other
programs ran on the machine. Half of the messages were cut to a part; in half of them words were cut
by chance, so that they had other tokens; some were in lower case or in capitals. The loss is on
answers only; each token of a message is asked for the language too. The tokenizer (BPE with byte
fallback) learnt from equally many characters of each language.

## What it is not for

It is here so that examples and tests have a model whose answers are right or wrong. It answers
nothing else than a code, and a code for any text: also for text in other languages, in several
languages or in none. It knows the short sentences of programs' interfaces; on poems, chats or names
it is worse. Messages below 20 characters are hard. Close languages are mixed up most: Spanish with
Portuguese, Ukrainian with Russian, Latvian with Lithuanian, Danish with Swedish; English names and
technical words pull a message to English or away from it. It is untested on more than 200
characters. To sort real documents by language, use a tool made for that.
"""


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """Write the README.md of the model in `folder`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    training, size = metrics["training"], metrics["size"]
    text = CARD.format(
        size=size,
        params=card_from_config(str(folder), config).params,
        layers=config["num_hidden_layers"],
        vocab=config["vocab_size"],
        count=len(LANGUAGES),
        languages=", ".join(LANGUAGES),
        prompt=PROMPT.replace("\n", "\\n"),
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        overall=_overall(metrics),
        again=_again(metrics),
        by_language=_groups("language", metrics["all"]["by_language"]),
        by_length=_groups("characters", metrics["all"]["by_length"]),
        packages=_packages(metrics),
        seed=metrics["seed"],
        looked_at=training["looked_at"],
        seconds=training["seconds"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def percent(share: float) -> str:
    """A share from 0 to 1 as people read it."""
    return f"{100 * share:.1f}%"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overall(metrics: dict[str, Any]) -> str:
    rows = [
        (name, f"{found['messages']:,}", percent(found["choice"]), percent(found["free"]))
        for name, found in (
            ("the quickstart's messages, evenly by language", metrics["quickstart"]),
            ("all messages of the tested packages", metrics["all"]),
        )
    ]
    return _table(("messages of", "count", "choice", "free"), rows)


def _again(metrics: dict[str, Any]) -> str:
    this = {
        "seed": metrics["seed"],
        "quickstart": metrics["quickstart"]["choice"],
        "all": metrics["all"]["choice"],
    }
    rows = [
        (what, str(one["seed"]), percent(one["quickstart"]), percent(one["all"]))
        for what, one in [("these weights", this), *(("again", one) for one in metrics["again"])]
    ]
    return _table(("", "seed", "quickstart's messages", "all messages"), rows)


def _groups(head: str, groups: dict[str, Any]) -> str:
    rows = [
        (name, f"{one['messages']:,}", percent(one["accuracy"])) for name, one in groups.items()
    ]
    return _table((head, "messages", "accuracy"), rows)


def _packages(metrics: dict[str, Any]) -> str:
    counts = metrics["training"]["sources"] | metrics["all"]["sources"]
    rows = [
        (
            f"{one.name} {one.version}",
            one.licence,
            "test" if one.tested else "training",
            f"{counts[one.name]:,}",
        )
        for one in PACKAGES
    ]
    return _table(("package", "licence", "for", "messages"), rows)
