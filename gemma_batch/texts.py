"""Texts: how times, durations and failures are written for people."""

from __future__ import annotations

import datetime


def duration(seconds: float | None) -> str:
    """1:02:03 or 2:03; a dash for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(seconds: float) -> str:
    """A time of day (Unix seconds) in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def failures_text(failures: dict[str, int]) -> str:
    """3 failed (prompt_too_long 2, null_value 1); empty when there are none."""
    if not failures:
        return ""
    codes = ", ".join(f"{code} {n:,}" for code, n in sorted(failures.items(), key=lambda x: -x[1]))
    return f"{sum(failures.values()):,} failed ({codes})"
