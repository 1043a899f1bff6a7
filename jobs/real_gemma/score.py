"""Score: how many answers of a finished job name the language of their message.

    python -m jobs.real_gemma.score OUTPUT

Runs on the laptop, on the results of `job.yaml`. A failed row counts as wrong.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.real_gemma.languages import NAMES

SHORT = 40  # characters; shorter messages are counted apart


@dataclass(slots=True)
class Score:
    """Counts of rows: all, right ones, by language, by length, by answer."""

    rows: int = 0
    right: int = 0
    by_language: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    by_length: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    answers: Counter[str] = field(default_factory=Counter)

    def add(self, answer: str | None, language: str, text: str) -> None:
        """Count one row; `answer` is None for a failed row."""
        said = (answer or "").strip().rstrip(".")
        good = said == NAMES[language]
        self.rows += 1
        self.right += good
        self.by_language[language].append(good)
        self.by_length["short" if len(text) < SHORT else "long"].append(good)
        self.answers[said if said in set(NAMES.values()) else "no language"] += 1

    def __str__(self) -> str:
        """A few lines for people."""

        def share(goods: list[bool]) -> str:
            return f"{sum(goods)} of {len(goods)}" if goods else "none"

        by_language = sorted(self.by_language.items(), key=lambda one: -sum(one[1]) / len(one[1]))
        common = ", ".join(f"{name} {count}" for name, count in self.answers.most_common(6))
        return "\n".join(
            [
                f"right: {self.right} of {self.rows} ({self.right / max(1, self.rows):.1%})",
                f"messages below {SHORT} characters: {share(self.by_length['short'])}; "
                f"longer ones: {share(self.by_length['long'])}",
                "by language: " + ", ".join(f"{n} {share(goods)}" for n, goods in by_language),
                f"said most often: {common}",
            ]
        )


def score(output: Path) -> Score:
    """Score the results and the errors in the folder of an output."""
    found = Score()
    for row in _rows(output / "results"):
        found.add(row.get("answer") or row["output"], row["language"], row["text"])
    for row in _rows(output / "errors"):
        found.add(None, row["language"], row["text"])
    return found


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    print(score(parser.parse_args().output))
