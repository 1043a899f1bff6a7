"""Metrics: the measured facts about a trained model, as they are kept in its metrics.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from gemma_batch.family.tiny import write_json
from jobs.train_small.measure import accuracy, answer, by_language, by_length
from jobs.train_small.messages import Messages
from jobs.train_small.quickstart_messages import quickstart_messages
from jobs.train_small.sizes import SIZES

FILE = "metrics.json"


def measured(
    folder: Path, size: str, seed: int, messages: Messages, seconds: float
) -> dict[str, Any]:
    """Measure the model in `folder` on all messages of tested packages, and write the figures.

    Accuracies are shares from 0 to 1. `choice` takes the most probable label, `free` the text of a
    greedy answer, which must be the label and nothing else.
    """
    test, quick = messages.test, quickstart_messages(messages)
    answers = answer(folder, [one.text for one in test])
    chosen = dict(zip([one.text for one in test], answers.chosen, strict=True))
    free = dict(zip([one.text for one in test], answers.free, strict=True))
    metrics = {
        "size": size,
        "seed": seed,
        "training": {
            "messages": len(messages.train),
            "sources": dict(sorted(Counter(one.source for one in messages.train).items())),
            "looked_at": SIZES[size].messages,
            "seconds": round(seconds),
        },
        "all": {
            "messages": len(test),
            "sources": dict(sorted(Counter(one.source for one in test).items())),
            "choice": accuracy(test, answers.chosen),
            "free": accuracy(test, answers.free),
            "by_language": by_language(test, answers.chosen),
            "by_length": by_length(test, answers.chosen),
        },
        "quickstart": {
            "messages": len(quick),
            "choice": accuracy(quick, [chosen[one.text] for one in quick]),
            "free": accuracy(quick, [free[one.text] for one in quick]),
            "by_language": by_language(quick, [chosen[one.text] for one in quick]),
            "by_length": by_length(quick, [chosen[one.text] for one in quick]),
        },
        "again": [],
    }
    write_json(folder / FILE, metrics)
    return metrics


def record_again(folder: Path, others: list[Path]) -> dict[str, Any]:
    """Put the accuracies of other trainings of this size into the metrics of `folder`.

    Raises ValueError for a model of another size.
    """
    metrics = read_metrics(folder)
    for other in others:
        theirs = read_metrics(other)
        if theirs["size"] != metrics["size"]:
            raise ValueError(f"{str(other)!r} is {theirs['size']!r}, not {metrics['size']!r}")
    if others:
        metrics["again"] = [
            {
                "seed": theirs["seed"],
                "all": theirs["all"]["choice"],
                "quickstart": theirs["quickstart"]["choice"],
            }
            for theirs in map(read_metrics, others)
        ]
        write_json(folder / FILE, metrics)
    return metrics


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of the model in a folder."""
    found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return found
