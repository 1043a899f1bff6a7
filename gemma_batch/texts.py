"""Texts: how times, durations, sizes and failures are written for people."""

from __future__ import annotations

import datetime


def duration(seconds: float | None) -> str:
    """A duration in seconds as text: "1:02:03" or "2:03"; "-" for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(seconds: float) -> str:
    """A date and time in UTC as text, from Unix seconds: "2026-11-27 14:05:09"."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def size_text(size: float) -> str:
    """A size in bytes as text: "312 bytes", "4.5 MiB"."""
    if size < 1024:
        return f"{size:,.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:,.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"


def counted(number: int, noun: str) -> str:
    """A number with the noun that it counts: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def failures_text(failures: dict[str, int]) -> str:
    """Failures by code as text: "3 failed (prompt_too_long 2, null_value 1)"; "" for none."""
    if not failures:
        return ""
    codes = ", ".join(f"{code} {n:,}" for code, n in sorted(failures.items(), key=lambda x: -x[1]))
    return f"{sum(failures.values()):,} failed ({codes})"


def shortened(value: object, most: int = 60) -> str:
    """A value as Python writes it, cut to `most` characters, for a message."""
    shown = repr(value)
    return shown if len(shown) <= most else shown[: most - 3] + "..."
