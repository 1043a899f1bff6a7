"""Forecast: the exit code that the failures of the sample would give a run (driver, laptop).

The sample says which rows fail before an engine sees them. What it says about the other rows is an
interval, and it holds as far as the other rows are like the sampled ones, which come from the start
of files. Failures in an engine come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gemma_batch.errors import TOO_MANY_FAILED
from gemma_batch.planning.foresight import Sampled
from gemma_batch.reporting.intervals import wilson
from gemma_batch.spec import Policy
from gemma_batch.texts import counted

MANY = 10**9  # rows, where the number of rows is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitForecast:
    """The exit code that is expected, and why.

    `failed` of `sampled` rows will fail. `rows` is the whole input (None: not counted); `least` and
    `most` bound its failed rows with 95% (None: not known). `least_share` and `most_share` are the
    same as shares of the input, from 0 to 1. `allowed` is `policy.max_failed` in rows, None where
    that is a share of a number that is not known. `certain` says that the whole interval gives the
    same code.
    """

    code: int
    certain: bool
    sampled: int
    failed: int
    rows: int | None
    least: int | None
    most: int | None
    least_share: float
    most_share: float
    allowed: int | None

    @property
    def lines(self) -> list[str]:
        """The forecast for people, one sentence a line."""
        failed = f"{self.failed:,}" if self.failed else "none"
        whole = self.rows is not None and self.sampled >= self.rows
        rows = counted(self.sampled, "row" if whole else "sampled row")
        rows = f"the {rows}" if whole else rows
        head = f"code {self.code}{'' if self.certain else ' is expected'}"
        if whole:
            return [f"{head}: {failed} of {rows} will fail; failures in an engine come on top"]
        if self.rows is None:
            bounds = f"{100 * self.least_share:.1f}% to {100 * self.most_share:.1f}% of all rows"
        else:
            bounds = f"{self.least:,} to {self.most:,} of all {self.rows:,} rows"
        allowed = "" if self.allowed is None else f", and policy.max_failed allows {self.allowed:,}"
        return [
            f"{head}: {failed} of {rows} will fail",
            f"by this sample from the start of files, {bounds} fail (95% sure){allowed}; failures "
            "in an engine come on top",
        ]


def exit_forecast(
    samples: Mapping[str, Sampled], policy: Policy, rows: int | None
) -> ExitForecast | None:
    """The forecast for an input with so many rows (None: not counted); None without a sample."""
    sampled = sum(sample.rows for sample in samples.values())
    failed = sum(one.rows for sample in samples.values() for one in sample.foreseen)
    if not sampled:
        return None
    low, high = wilson(failed, sampled)
    if rows is not None and rows <= sampled:
        low = high = failed / sampled
    total = MANY if rows is None else max(rows, sampled)
    rest = total - sampled
    least, most = failed + math.floor(low * rest), failed + math.ceil(high * rest)
    limit = policy.failure_limit(total)
    is_share = policy.failure_limit(2 * MANY) != policy.failure_limit(MANY)
    if rows is None and not is_share:  # the number of rows that fail grows without a bound
        least, expected = failed, float(failed)
    else:
        expected = failed * total / sampled
    code = 0 if expected <= limit else TOO_MANY_FAILED
    return ExitForecast(
        code=code,
        certain=least > limit or most <= limit,
        sampled=sampled,
        failed=failed,
        rows=rows,
        least=None if rows is None else least,
        most=None if rows is None else most,
        least_share=round(least / total if rows is not None else low, 6),
        most_share=round(most / total if rows is not None else high, 6),
        allowed=None if rows is None and is_share else limit,
    )
