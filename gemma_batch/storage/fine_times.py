"""Fine times: dates, times and durations with nanoseconds, which Python's own types cannot hold.

A value with whole microseconds stays one of Python's own types. Any other value becomes one of the
classes below, which know the nanoseconds beyond the microseconds and show them in their text.
Arithmetic and `replace` give values without these nanoseconds. Every process may use this module.
"""

from __future__ import annotations

import datetime
from typing import Any, TypeVar

T = TypeVar("T", datetime.datetime, datetime.time)
EPOCH = datetime.datetime(1970, 1, 1)
EPOCH_UTC = EPOCH.replace(tzinfo=datetime.UTC)
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # per unit of Arrow


class FineDatetime(datetime.datetime):
    """A datetime with `nanosecond`: 0 to 999, beyond its microseconds."""

    nanosecond = 0

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        text = super().isoformat(sep, "microseconds" if self.nanosecond else timespec)
        return _with_nanoseconds(text, self.nanosecond, start=len("2026-01-02T"))

    def __str__(self) -> str:
        return self.isoformat(" ")

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.nanosecond == getattr(other, "nanosecond", 0)

    def __hash__(self) -> int:
        return super().__hash__()


class FineTime(datetime.time):
    """A time of day with `nanosecond`: 0 to 999, beyond its microseconds."""

    nanosecond = 0

    def isoformat(self, timespec: str = "auto") -> str:
        text = super().isoformat("microseconds" if self.nanosecond else timespec)
        return _with_nanoseconds(text, self.nanosecond)

    def __str__(self) -> str:
        return self.isoformat()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.nanosecond == getattr(other, "nanosecond", 0)

    def __hash__(self) -> int:
        return super().__hash__()


class FineDelta(datetime.timedelta):
    """A duration with `nanosecond`: 0 to 999, beyond its microseconds."""

    nanosecond = 0

    def __str__(self) -> str:
        text = super().__str__()
        if not self.nanosecond:
            return text
        return f"{text if '.' in text else text + '.000000'}{self.nanosecond:03d}"

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.nanosecond == getattr(other, "nanosecond", 0)

    def __hash__(self) -> int:
        return super().__hash__()


def _with_nanoseconds(text: str, nanosecond: int, start: int = 0) -> str:
    if not nanosecond:
        return text
    end = text.index(".", start) + len(".000000")
    return f"{text[:end]}{nanosecond:03d}{text[end:]}"


def fine_datetime(count: int, zone: datetime.tzinfo | None) -> datetime.datetime:
    """The moment `count` nanoseconds after 1970 (UTC, shown in `zone`; None: without a zone).

    Raises OverflowError before the year 1 and after the year 9999.
    """
    micros, nanos = divmod(count, 1000)
    moment = (EPOCH_UTC if zone else EPOCH) + datetime.timedelta(microseconds=micros)
    return _finer(FineDatetime, moment.astimezone(zone) if zone else moment, nanos)


def fine_time(count: int) -> datetime.time:
    """The time of day, `count` nanoseconds after midnight."""
    micros, nanos = divmod(count, 1000)
    return _finer(FineTime, (EPOCH + datetime.timedelta(microseconds=micros)).time(), nanos)


def fine_delta(count: int) -> datetime.timedelta:
    """The duration of `count` nanoseconds."""
    micros, nanos = divmod(count, 1000)
    plain = datetime.timedelta(microseconds=micros)
    if not nanos:
        return plain
    found = FineDelta(plain.days, plain.seconds, plain.microseconds)
    found.nanosecond = nanos
    return found


def _finer(kind: Any, value: T, nanos: int) -> T:
    if not nanos:
        return value
    names = ("hour", "minute", "second", "microsecond", "tzinfo", "fold")
    given = {name: getattr(value, name) for name in names}
    if isinstance(value, datetime.datetime):
        given |= {"year": value.year, "month": value.month, "day": value.day}
    found: T = kind(**given)
    found.nanosecond = nanos  # type: ignore[attr-defined]
    return found


def count_of(value: datetime.datetime | datetime.time | datetime.timedelta, unit: str) -> int:
    """The inverse: how many `unit` ("s", "ms", "us", "ns") the value is.

    A datetime counts from 1970 (UTC when it has a zone), a time of day from midnight. Raises
    ValueError when the value is finer than the unit, or does not fit 64 bits.
    """
    if isinstance(value, datetime.timedelta):
        length = value
    elif isinstance(value, datetime.datetime):
        length = value - (EPOCH if value.tzinfo is None else EPOCH_UTC)
    else:
        length = datetime.datetime.combine(EPOCH, value.replace(tzinfo=None)) - EPOCH
    total = (length.days * 86_400 + length.seconds) * 10**9 + length.microseconds * 1000
    total += getattr(value, "nanosecond", 0)
    count, rest = divmod(total, NANOSECONDS[unit])
    if rest or not -(2**63) <= count < 2**63:
        raise ValueError(f"{value} would be changed by the unit {unit}")
    return count


def parse_datetime(text: str) -> datetime.datetime:
    """A datetime from ISO 8601, with up to 9 digits behind the second. Raises ValueError."""
    short, nanos = _without_nanoseconds(text)
    return _finer(FineDatetime, datetime.datetime.fromisoformat(short), nanos)


def parse_time(text: str) -> datetime.time:
    """A time of day from ISO 8601, with up to 9 digits behind the second. Raises ValueError."""
    short, nanos = _without_nanoseconds(text)
    return _finer(FineTime, datetime.time.fromisoformat(short), nanos)


def _without_nanoseconds(text: str) -> tuple[str, int]:
    head, dot, tail = text.strip().partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    if not dot or len(digits) <= 6:
        return text.strip(), 0
    if len(digits) > 9 and digits[9:].strip("0"):
        raise ValueError(f"{text!r} is finer than nanoseconds")
    return f"{head}.{digits[:6]}{tail[len(digits) :]}", int(digits[6:9].ljust(3, "0"))
