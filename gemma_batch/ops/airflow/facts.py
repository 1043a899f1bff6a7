"""Facts: the small dict that a task hands on, read from the output and never from a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

COPIED = (
    "rows", "answered", "failed", "failures", "prompt_tokens", "completion_tokens",
    "cached_tokens", "device_hours", "cost",
)  # fmt: skip


def facts_of(output: str, submission_id: str) -> dict[str, Any]:
    """The totals of an output, over all its runs, as plain data.

    This call blocks. It reads the output and needs no cluster. `cost` is None unless the spec has
    a price. `newest` are the rows of the newest files of an input that grows, of all files of any
    other: `files` (None when not known), `rows`, `answered`, `failed` and `failed_share`. Raises
    `OutputError` when the output holds no run.
    """
    from gemma_batch.reporting.status import current_report

    report = dataclasses.asdict(current_report(output))
    newest = report["increments"][-1] if report["increments"] else {**report, "files": None}
    return {
        "submission_id": submission_id,
        "name": report["name"],
        "output": output,
        "complete": report["complete"],
        **{name: report.get(name) for name in COPIED},
        "failed_share": _share(report),
        "newest": {
            **{name: newest[name] for name in ("files", "rows", "answered", "failed")},
            "failed_share": _share(newest),
        },
    }


def _share(counts: Mapping[str, Any]) -> float:
    return float(round(counts["failed"] / max(counts["rows"], 1), 6))


def failures_of(facts: dict[str, Any]) -> str:
    """The failed rows in words, for example `12 of 600 rows failed (null_value 12)`."""
    codes = ", ".join(f"{code} {count:,}" for code, count in facts["failures"].items())
    return f"{facts['failed']:,} of {facts['rows']:,} rows failed ({codes})"
