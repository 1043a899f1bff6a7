"""What a task hands on: a small dict, read from the output itself and never from a log."""

from __future__ import annotations

import dataclasses
from typing import Any

COPIED = (
    "rows", "answered", "failed", "failures", "prompt_tokens", "completion_tokens",
    "cached_tokens", "device_hours", "cost",
)  # fmt: skip


def facts_of(output: str, submission_id: str) -> dict[str, Any]:
    """Totals of an output, over all runs on it, as plain data.

    Blocks, and needs to read the output but no cluster. `cost` is None unless the spec has a price.
    Raises `OutputError` when there is no run.
    """
    from gemma_batch.reporting.status import current_report

    report = dataclasses.asdict(current_report(output))
    return {
        "submission_id": submission_id,
        "name": report["name"],
        "output": output,
        "complete": report["complete"],
        **{name: report.get(name) for name in COPIED},
        "failed_share": round(report["failed"] / max(report["rows"], 1), 6),
    }


def failures_of(facts: dict[str, Any]) -> str:
    """For example `12 of 600 rows failed (null_value 12)`."""
    codes = ", ".join(f"{code} {count:,}" for code, count in facts["failures"].items())
    return f"{facts['failed']:,} of {facts['rows']:,} rows failed ({codes})"
