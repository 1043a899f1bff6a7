"""Agreement: how often two models give the same answer to the same rows (driver, laptop)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gemma_batch.reporting.intervals import Interval, wilson
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.tried import Trial
from gemma_batch.reporting.tried_rows import code_of, is_typed, said

SHOWN = 10  # rows that are shown with different answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How two `models` agree.

    Of `rows` sampled rows both models answered `compared`, and gave the same answer to `same`.
    `share` is same / compared, None without such rows, and `interval` the interval of the share.
    `typed` says that typed answers were compared, and not texts. `differences` are some rows with
    different answers, each with the answers in the order of the models.
    """

    models: tuple[str, str]
    rows: int
    compared: int
    same: int
    share: float | None
    interval: Interval
    typed: bool
    differences: list[ShownRow]

    def to_dict(self) -> dict[str, Any]:
        """The agreement as plain data."""
        data = {name: getattr(self, name) for name in self.__slots__}
        return {**data, "differences": [row.plain() for row in self.differences]}


def compare(first: Trial, second: Trial) -> Agreement:
    """Compare two tries of the same rows.

    Typed answers are compared where the job asks for them, else the texts without the white space
    at their ends.
    """
    others = {(row.shard, row.row_number): row for row in second.samples}
    pairs = [
        (row, other)
        for row in first.samples
        if (other := others.get((row.shard, row.row_number))) is not None
    ]
    answered = [(a, b) for a, b in pairs if code_of(a) is None and code_of(b) is None]
    apart = [(a, b) for a, b in answered if said(a) != said(b)]
    same = len(answered) - len(apart)
    low, high = wilson(same, len(answered))
    return Agreement(
        models=(first.model, second.model),
        rows=len(pairs),
        compared=len(answered),
        same=same,
        share=round(same / len(answered), 6) if answered else None,
        interval=(round(low, 6), round(high, 6)),
        typed=any(is_typed(row) for pair in answered for row in pair),
        differences=[replace(a, answers=(*a.answers, *b.answers)) for a, b in apart[:SHOWN]],
    )
