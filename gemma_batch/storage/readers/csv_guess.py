"""Guesses how a text file is written, from its first records (laptop, for `init`).

Each candidate reads the same sample as the reader would. The best one gives the most records of the
header's length, then the most columns.
"""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from gemma_batch.storage.readers.csv_records import Dialect, Record, records
from gemma_batch.storage.readers.encodings import guess_encoding, recoded
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.storage.readers.text import Encoded, opened, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

SAMPLE = 2**18  # bytes
SAMPLED_RECORDS = 500
DELIMITERS = {"csv": ",;\t|", "tsv": "\t,;|", "psv": "|,;\t"}  # the usual one first
NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")
YEARS = range(1900, 2101)  # the name of a column may be a year
LONG_NAME = 100  # characters


class Guess(NamedTuple):
    """A way to write the sample, and how well it fits: a share from 0 to 1, and columns."""

    dialect: Dialect
    fit: float
    columns: int
    found: list[Record]


def guess_options(file: InputFile, kind: str) -> ReadOptions:
    """Options that differ from the usual ones of the format `kind`, as far as the sample shows.

    Raises `InputError` when the file cannot be read.
    """
    with reading(file.url), opened(file.url, expected=SAMPLE) as stream:
        encoding = guess_encoding(stream.read(SAMPLE))
    options = ReadOptions(encoding=encoding)
    if kind not in DELIMITERS:
        return options
    with reading(file.url), opened(file.url, expected=SAMPLE, encoding=encoding) as stream:
        data = stream.read(SAMPLE)
        whole = not stream.read(1)
        if isinstance(stream, Encoded):
            data = recoded(data, stream.encoding)
    best = _best(data, DELIMITERS[kind], whole=whole)
    usual = DELIMITERS[kind][0]
    return replace(
        options,
        delimiter=None if best.dialect.delimiter == usual else best.dialect.delimiter,
        quote=None if best.dialect.quote == '"' else best.dialect.quote,
        escape=best.dialect.escape or None,
        header=_has_header(best.found),
    )


def _best(data: bytes, delimiters: str, *, whole: bool) -> Guess:
    escapes = ("", "\\") if b"\\" in data else ("",)
    guesses = [
        _try(data, Dialect(delimiter, '"', escape), whole=whole)
        for escape in escapes
        for delimiter in delimiters
    ]
    best = max(guesses, key=lambda guess: (guess.fit, guess.columns))
    if _all_single_quoted(best.found):
        single = _try(data, best.dialect._replace(quote="'"), whole=whole)
        best = single if single.fit >= best.fit else best
    return best


def _try(data: bytes, dialect: Dialect, *, whole: bool) -> Guess:
    found = list(
        itertools.islice(records(io.BytesIO(data), 0, SAMPLE, dialect), SAMPLED_RECORDS + 1)
    )
    if len(found) > 1 and (len(found) > SAMPLED_RECORDS or not whole):
        found.pop()  # the end of the sample may have cut it
    columns = len(found[0].values or ()) if found else 0
    good = sum(record.values is not None and len(record.values) == columns for record in found)
    # One column fits any text, so a candidate with several columns may miss some records.
    fit = good / max(len(found), 1) * (1 if columns > 1 else 0.5)
    return Guess(dialect, fit, columns, found)


def _all_single_quoted(found: list[Record]) -> bool:
    """Whether a column has single quotes around each of its values."""
    width = len(found[0].values or ()) if found else 0
    rows = [record.values for record in found[1:] if len(record.values or ()) == width]
    return bool(rows) and any(
        all(row and len(row[i]) > 1 and row[i][0] == row[i][-1] == "'" for row in rows)
        for i in range(width)
    )


def _has_header(found: list[Record]) -> bool:
    """Whether the first record names columns, and is not a row as the others are."""
    first, *rows = [record.values for record in found if record.values is not None] or [[]]
    if any(len(name) > LONG_NAME for name in first):
        return False
    return not any(
        NUMBER.fullmatch(name)
        and not (name.strip().isdigit() and int(name) in YEARS)
        and rows
        and all(len(row) > i and NUMBER.fullmatch(row[i]) for row in rows)
        for i, name in enumerate(first)
    )
