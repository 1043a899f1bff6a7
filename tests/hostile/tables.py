"""Tables as people have them: a small description that hypothesis draws and shrinks.

A `Table` says which columns there are, how the rows are spread over files, which files lack or
narrow a column, and what the job asks. Its `repr` is the example that a failing test prints.
`table_files.py` writes the files, `simple_reader.py` reads them.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

UTC = dt.UTC
TEXTS = (
    "a", "the fox", "", " ", "\u00e9\U0001d11e", "x" * 60, "null", "NaN", "007", "1e5", "\\",
    "a,b;c\td|e", 'say "hi"', "it's", "two\nlines", "two\r\nlines", '\\"', "{{ a }}", "\x00",
    "<end_of_turn>", "\ufdd0", "\ufeff", "2026-01-01",
)  # fmt: skip
DAY, LAST_DAY = dt.date(1, 1, 1), dt.date(9999, 12, 31)
MOMENTS = (
    dt.datetime(2026, 1, 2, 3, 4, 5, 678901), dt.datetime(1970, 1, 1), dt.datetime(1899, 12, 31, 1),
    dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
)  # fmt: skip
SECONDS = tuple(moment.replace(microsecond=0) for moment in MOMENTS)
NANOS = (0, 1, 1_767_225_600_123_456_789, -1, -(2**63) + 1, 2**63 - 1)  # since 1970
FLOATS = (0.1, 19.99, 0.0, -0.0, 1e300, 5e-324, math.inf, -math.inf, math.nan, 2.0**53)
UUIDS = (uuid.UUID(int=0).bytes, uuid.UUID(int=2**128 - 1).bytes)


def _ints(bits: int, *, signed: bool = True) -> tuple[int, ...]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return (1, 0, low, high)


# name -> Arrow type and values. A value is given as `pa.array` takes it.
TYPES: dict[str, tuple[pa.DataType, tuple[Any, ...]]] = {
    "text": (pa.string(), TEXTS),
    "int64": (pa.int64(), (*_ints(64), 2**53 + 1)),
    "float64": (pa.float64(), FLOATS),
    "bool": (pa.bool_(), (True, False)),
    "timestamp": (pa.timestamp("us"), MOMENTS),
    "large text": (pa.large_string(), TEXTS),
    "text view": (pa.string_view(), TEXTS),
    "int8": (pa.int8(), _ints(8)),
    "int16": (pa.int16(), _ints(16)),
    "int32": (pa.int32(), _ints(32)),
    "uint8": (pa.uint8(), _ints(8, signed=False)),
    "uint32": (pa.uint32(), _ints(32, signed=False)),
    "uint64": (pa.uint64(), _ints(64, signed=False)),
    "float32": (pa.float32(), (19.99, 0.5, 3.4e38, 1e-45, math.nan, -math.inf)),
    "float16": (pa.float16(), (0.5, 0.1, 96.0, math.nan)),
    "date": (pa.date32(), (dt.date(2026, 1, 1), DAY, LAST_DAY)),
    "time": (pa.time64("us"), (dt.time(1, 2, 3, 4), dt.time(), dt.time(23, 59, 59, 999999))),
    "time ms": (pa.time32("ms"), (dt.time(1, 2, 3, 4000), dt.time())),
    "seconds": (pa.timestamp("s"), SECONDS),
    "millis": (pa.timestamp("ms"), SECONDS),
    "nanos": (pa.timestamp("ns"), NANOS),
    "zoned": (pa.timestamp("us", "Europe/Berlin"), [m.replace(tzinfo=UTC) for m in MOMENTS[:3]]),
    "decimal": (pa.decimal128(12, 2), (Decimal("19.99"), Decimal(0), Decimal("-9999999999.99"))),
    "wide decimal": (pa.decimal128(38, 10), (Decimal("1"), Decimal("12345678901234567890.5"))),
    "binary": (pa.binary(), (b"a", b"", b"\x00\xff")),
    "fixed binary": (pa.binary(2), (b"ab", b"\x00\xff")),
    "uuid": (pa.uuid(), UUIDS),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    "list": (pa.list_(pa.int64()), ([1], [], [None, 2])),
    "list of text": (pa.list_(pa.string()), (["a"], [], ["", None])),
    "large list": (pa.large_list(pa.float64()), ([0.5], [])),
    "fixed list": (pa.list_(pa.int32(), 2), ([1, 2], [None, 0])),
    "struct": (
        pa.struct([("n", pa.int64()), ("a b", pa.string())]),
        ({"n": 1, "a b": "x"}, {"n": None, "a b": None}),
    ),
    "map": (pa.map_(pa.string(), pa.int64()), ([("k", 1)], [], [("", None)])),
    "structs": (pa.list_(pa.struct([("n", pa.int32())])), ([{"n": 1}, None], [])),
    "null": (pa.null(), ()),
}
# What a file may have instead of the type that the other files have: Arrow widens it.
NARROWER: dict[str, tuple[str, ...]] = {
    "text": ("null", "dictionary"),
    "int64": ("int32", "int8", "uint8", "null"),
    "int32": ("int16", "null"),
    "float64": ("float32", "int32", "null"),
    "timestamp": ("date", "seconds", "null"),
    "bool": ("null",),
    "list": ("null",),
    "struct": ("null",),
    "decimal": ("null",),
    "date": ("null",),
    "uint64": ("int64", "uint8"),
    "wide decimal": ("decimal", "int32"),
    "time": ("time ms",),
    "nanos": ("null",),
    "structs": ("null",),
    "large list": ("null",),
}
# The same for JSON: there a column of text takes all other values.
OTHERS: dict[str, tuple[str, ...]] = {
    "int": ("number", "text", "bool"),
    "number": ("int", "list"),
    "text": ("int", "object"),
    "bool": ("text",),
    "list": ("object", "int"),
}
JSON: dict[str, tuple[Any, ...]] = {
    "text": TEXTS,
    "int": (1, 0, -(2**63), 2**63 - 1, 2**53 + 1),
    "number": (1, 0.1, 1e300, 2**53, -0.0),
    "bool": (True, False),
    "list": ([1], [2, 3], [None]),
    "object": ({"n": 1}, {"n": None, "a b": ["x"]}, {}),
    "mixed": ("a", 1, 0.5, True, [1, "a"], {"x": []}, 2**70, ""),
}
CSV: dict[str, tuple[Any, ...]] = {
    "text": TEXTS,
    "number text": ("1", "-5", "0.1", "1e5", "", "x"),
}
ORC_LACKS = {
    "uint8", "uint32", "uint64", "float16", "time", "time ms", "fixed binary", "uuid", "null",
    "large list", "fixed list", "text view", "large text", "dictionary", "zoned", "nanos",
    "seconds", "millis", "timestamp",
}  # fmt: skip
FOLDER = "folder"  # the kind of a column in the names of folders
FOLDER_VALUES = (
    "2026",
    "7",
    "-1",
    "de",
    "a b",
    "gr\u00f6\u00dfe",
    "007",
    "x=y",
    "1e5",
    "a/b%",
    None,
)
# The kinds of the column that is another value in each row, and that value of row n.
KEYS: dict[str, Callable[[int], Any]] = {
    "text": lambda n: f"k{n}",
    "int64": lambda n: n,
    "int": lambda n: n,
    "float64": lambda n: n + 0.5,
    "float32": lambda n: n / 10,
    "decimal": lambda n: Decimal(n) / 4,
    "date": lambda n: dt.date(2026, 1, 1) + dt.timedelta(n),
    "timestamp": lambda n: dt.datetime(2026, 1, 1, 0, 0, 0, n),
    "uuid": lambda n: uuid.UUID(int=n).bytes,
    "binary": lambda n: n.to_bytes(2, "big"),
}
FORMATS = ("parquet", "jsonl", "csv", "tsv", "psv", "json", "arrow", "orc")
PACKED = ("", ".gz", ".zst", ".bz2", ".xz")
TYPED = ("parquet", "arrow", "orc")
LINES = ("jsonl", "json")
DELIMITERS = {"csv": ",", "tsv": "\t", "psv": "|"}
PLAIN_NAMES = ("body", "text", "n", "gr\u00f6\u00dfe", "_x", "items", "select", "limit")
NAMES = (
    *PLAIN_NAMES, "Review Text", "a.b", "1st", "it's", 'a "b"', "\u540d\u524d", "a\\b", "x,y",
    "order", "loop", "self", "range", "{{ n }}", "a\nb", "sex/gender", "\U0001f600", "class",
)  # fmt: skip
# Names that the output has too, and names that differ only by case.
TAKEN_NAMES = ("output", "id", "row", "code", "model", "Body")
FOLDER_NAMES = ("year", "lang", "Load Date", "_part")
FOLDERS = ("", "deep/er", "with space", "gr\u00f6\u00dfe", "v1.2")


@dataclass(frozen=True)
class File:
    """The rows of one file: `rows[i][j]` is the value of row i in column j.

    The file lacks the columns `lacks`, and has others with another type (`kinds`). `folders` are
    the values of the columns that are in names of folders. `broken` are the places of lines that
    are no JSON; such a line is a row. `empty` is a file without rows: `bytes` without a byte,
    `header` with the names of its columns only.
    """

    rows: tuple[tuple[Any, ...], ...]
    folder: str = ""
    folders: tuple[str | None, ...] = ()
    lacks: frozenset[int] = frozenset()
    kinds: tuple[tuple[int, str], ...] = ()
    broken: frozenset[int] = frozenset()
    empty: str = ""


@dataclass(frozen=True)
class Table:
    """An input and a job. Numbers mean columns: `columns[i]` is the name and the kind of column i.

    The column `key` (name, kind) comes before them in each file, with another value in each row.
    `keep` maps a column to its name in the output. `when` is an expression over one column, written
    with `{c}` for the column's name. `harm` is what happens to a file after the plan: it is `gone`
    or `replaced`. With `flaky` an engine fails some rows, which are then run again. `looked_at` is
    the number of rows and files by which a plan guesses types.
    """

    format: str
    columns: tuple[tuple[str, str], ...]
    files: tuple[File, ...]
    key: tuple[str, str] = ("key", "text")
    text: int = 0
    keep: tuple[tuple[int, str], ...] = ()
    id: bool = True
    when: tuple[int, str] | None = None
    packed: str = ""
    unit_rows: int | None = None
    path: str = "folder"
    junk: bool = False
    harm: tuple[int, str] = (-1, "")
    flaky: bool = False
    looked_at: int = 1000
    layout: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All rows, broken lines included."""
        return sum(len(file.rows) + len(file.broken) for file in self.files)


# --- drawing -------------------------------------------------------------------------------------


def _kinds(format: str) -> dict[str, tuple[Any, ...]]:
    if format in TYPED:
        lacks = ORC_LACKS if format == "orc" else set()
        return {name: tuple(values) for name, (_, values) in TYPES.items() if name not in lacks}
    return JSON if format in LINES else CSV


def _cell(values: tuple[Any, ...], *, nulls: bool) -> st.SearchStrategy[Any]:
    some = st.sampled_from(values) if values else st.none()
    return st.one_of(some, st.none()) if nulls and values else some


WHEN = {
    "text": "length({c}) > 3",
    "int64": "{c} > 1",
    "int": "{c} > 1",
    "int32": "{c} % 2 = 0",
    "float64": "{c} < 1",
    "number": "{c} < 1",
    "date": "{c} > DATE '2000-01-01'",
    "timestamp": "year({c}) > 2000",
    "number text": "try_cast({c} AS INTEGER) > 0",
    "decimal": "{c} > 1.5",
    "list": "len({c}) > 0",
}
NULL = "{c} IS NULL"


def _rarely(draw: st.DrawFn, one_in: int) -> bool:
    return draw(st.integers(1, one_in)) == one_in


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A table and a job over it; it shrinks to one file with one row and one column."""
    format = draw(st.sampled_from((*FORMATS, "parquet")))
    kinds = _kinds(format)
    every = NAMES + TAKEN_NAMES
    names = draw(st.lists(st.sampled_from(every), min_size=1, max_size=4, unique=True))
    if _rarely(draw, 6):  # a twin that differs only by case
        names = list(dict.fromkeys([*names, names[0].swapcase()]))
    columns = [(name, draw(st.sampled_from(list(kinds)))) for name in names]
    if _rarely(draw, 4):
        found = draw(st.lists(st.sampled_from(FOLDER_NAMES), min_size=1, max_size=2, unique=True))
        columns += [(name, FOLDER) for name in found]
    many = _rarely(draw, 30)
    first = _file(columns, format, most=1 if many else 6)
    later = _file(columns, format, most=1 if many else 6, later=True)
    files = [draw(first), *draw(st.lists(later, min_size=20 * many, max_size=24 if many else 3))]
    places = st.integers(0, len(columns) - 1)
    keep = tuple(
        (place, _kept_name(draw, columns[place][0]))
        for place in draw(st.lists(places, max_size=3, unique=True))
    )
    when = _when(draw, columns, files, format)
    # The rows by which types are guessed have to show every column, and values to compare.
    shown = not any(file.broken or file.lacks for file in files)
    shown = shown and (when is None or when[1] == NULL)
    guessed = format in LINES and shown
    keys = [kind for kind in KEYS if kind in kinds]
    return Table(
        format=format,
        columns=tuple(columns),
        files=tuple(files),
        key=(draw(st.sampled_from(["key", "Row Key", "k.1"])), draw(st.sampled_from(keys))),
        text=draw(places),
        keep=keep,
        id=draw(st.booleans()),
        when=when,
        packed="" if format in TYPED else draw(st.sampled_from(("", *PACKED))),
        unit_rows=draw(st.sampled_from([None, 2, 5])),
        path=draw(st.sampled_from(["folder", "glob", "list"])),
        junk=draw(st.booleans()),
        harm=_harm(draw, files) if _rarely(draw, 8) else (-1, ""),
        flaky=_rarely(draw, 4),
        looked_at=draw(st.sampled_from([1000, 1, 2])) if guessed else 1000,
        layout=draw(_layouts(format)),
    )


def _harm(draw: st.DrawFn, files: list[File]) -> tuple[int, str]:
    full = [place for place, file in enumerate(files) if not file.empty]
    return draw(st.sampled_from(full)), draw(st.sampled_from(["gone", "replaced"]))


def _kept_name(draw: st.DrawFn, name: str) -> str:
    new = f"kept {name}"
    return new if name in TAKEN_NAMES[:5] else draw(st.sampled_from([name, new]))


def _when(
    draw: st.DrawFn, columns: list[tuple[str, str]], files: list[File], format: str
) -> tuple[int, str] | None:
    # In a column of JSON with values of several types, some match no `when` (docs/inputs.md).
    places = [
        place
        for place, (_, kind) in enumerate(columns)
        if kind != "mixed"
        and not (format in LINES and any(dict(f.kinds).get(place) for f in files))
    ]
    if not places or not draw(st.booleans()):
        return None
    place = draw(st.sampled_from(places))
    values = [row[place] for file in files if place not in file.lacks for row in file.rows]
    usual = WHEN.get(columns[place][1], NULL)
    # A column without a value has no type but text, on which other expressions are errors.
    return place, draw(st.sampled_from([usual, NULL])) if any(values) else NULL


def _layouts(format: str) -> st.SearchStrategy[dict[str, Any]]:
    true = st.just(True)
    options: dict[str, st.SearchStrategy[Any]] = {}
    if format == "parquet":
        options = {
            "row_group_size": st.sampled_from([1, 2]),
            "compression": st.sampled_from(["none", "zstd", "gzip"]),
            "no_schema": true,
            "int96": true,
        }
    elif format == "arrow":
        options = {"stream": true, "compression": st.sampled_from(["lz4", "zstd"])}
    elif format in DELIMITERS:
        options = {"crlf": true, "quote_all": true, "bom": true}
    elif format in LINES:
        options = {"crlf": true, "ascii": true}
        options["array" if format == "json" else "blank"] = true
    return st.fixed_dictionaries({}, optional=options)


@st.composite
def _file(
    draw: st.DrawFn,
    columns: list[tuple[str, str]],
    format: str,
    most: int,
    later: bool = False,
) -> File:
    own: dict[int, str] = {}
    lacks = set()
    for place, (_, kind) in enumerate(columns):
        other = NARROWER if format in TYPED else OTHERS if format in LINES else {}
        possible = [kind for kind in other.get(kind, ()) if kind in _kinds(format)]
        if possible and _rarely(draw, 6):
            own[place] = draw(st.sampled_from(possible))
        elif later and kind != FOLDER and _rarely(draw, 8):
            lacks.add(place)
    kinds = {**_kinds(format), FOLDER: ()}
    cells = [
        _cell(kinds[own.get(place, kind)], nulls=format not in DELIMITERS)
        for place, (_, kind) in enumerate(columns)
    ]
    empty = draw(st.sampled_from(["bytes", "header"])) if later and _rarely(draw, 10) else ""
    rows = [] if empty else draw(st.lists(st.tuples(*cells), min_size=1, max_size=most))
    broken: frozenset[int] = frozenset()
    if format == "jsonl" and most > 1 and not empty and _rarely(draw, 10):
        broken = frozenset(draw(st.sets(st.integers(0, len(rows)), min_size=1, max_size=2)))
    folders = [draw(st.sampled_from(FOLDER_VALUES)) for _, kind in columns if kind == FOLDER]
    return File(
        rows=tuple(rows),
        folder=draw(st.sampled_from(FOLDERS)),
        folders=tuple(folders),
        lacks=frozenset(lacks),
        kinds=tuple(own.items()),
        broken=broken,
        empty=empty,
    )
