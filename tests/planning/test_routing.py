"""Routing: each row takes exactly one route, and SQL in a spec reaches nothing but the row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from gemma_batch.errors import SpecError
from gemma_batch.planning.routing import Router
from gemma_batch.rows import Failure, Row
from gemma_batch.spec import Route

SCHEMA = pa.schema(
    [
        ("body", pa.string()),
        ("n", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("raw", pa.string()),
    ]
)


def router(*whens: str) -> Router:
    routes = [Route(name=f"r{i}", model="m", when=when) for i, when in enumerate(whens)]
    return Router([*routes, Route(name="rest", model="m")], SCHEMA)


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(i, value) for i, value in enumerate(values)]


def test_the_first_matching_route_wins() -> None:
    """Order decides, null matches nothing, the last route takes the rest."""
    found = router("length(body) > 3", "n > 5").assign(
        rows(
            {"body": "long enough", "n": 9},
            {"body": "x", "n": 9},
            {"body": None, "n": None},
            {"body": "x", "n": 1},
        )
    )
    assert found == ["r0", "r1", "rest", "rest"]


def test_only_the_columns_used_are_read() -> None:
    """Planning reads no more of the input than the expressions name."""
    assert router("length(body) > 3", "list_contains(tags, 'x')").columns == {"body", "tags"}
    assert router().columns == set()


def test_an_expression_that_fails_on_one_row_costs_nobody_else() -> None:
    """A cast that one row can't pass sends that row on, not the job down."""
    found = router("raw::int > 5").assign(rows({"raw": "7"}, {"raw": "seven"}, {"raw": "3"}))
    assert found == ["r0", "rest", "rest"]


def test_rows_of_another_type_than_the_column_count_as_null() -> None:
    """JSON lines may hold anything; the route decides on what fits."""
    found = router("n > 5").assign(rows({"n": "many"}, {"n": 7}, {"n": {"a": 1}}))
    assert found == ["rest", "r0", "rest"]


def test_an_unreadable_row_takes_the_last_route() -> None:
    """It has no values to decide on, and must not get lost."""
    broken = Row(0, None, Failure("bad_row", "x"))
    assert router("n > 5").assign([broken, Row(1, {"n": 9})]) == ["rest", "r0"]


@pytest.mark.parametrize(
    ("when", "sentence"),
    [
        ("lenth(body) > 3", "cannot be evaluated"),
        ("bdy = 'x'", "bdy"),
        ("length(body >", "not valid SQL"),
        ("n > 5; DROP TABLE rows", "not valid SQL"),
        ("n > 5; SELECT 1", "one SQL expression"),
        ("1 FROM read_text('/etc/passwd')", "one SQL expression"),
        ("n > (SELECT 1)", "subquery"),
        ("exists(SELECT * FROM read_csv('/etc/passwd'))", "subquery"),
        ("random() > 0.5", "changes from one"),
        ("getenv('HOME') = 'x'", "changes from one"),
        ("read_text('/etc/passwd') IS NOT NULL", "cannot be evaluated"),
    ],
)
def test_bad_or_dangerous_sql_is_refused_with_the_field_named(when: str, sentence: str) -> None:
    """One sentence: the field, the expression, the cause."""
    with pytest.raises(SpecError) as caught:
        router(when)
    assert "routes.r0.when" in str(caught.value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


TWINS = pa.schema(
    [
        ("text", pa.string()),
        ("Text", pa.string()),
        ("n", pa.int64()),
        ("row", pa.int64()),
        ("rows", pa.int64()),
        ("order", pa.int64()),
        ("a.b", pa.int64()),
        ("Review Text", pa.string()),
        ("é", pa.string()),
        ("É", pa.string()),
        ("s", pa.struct([("a", pa.int64()), ("b", pa.int64())])),
        ("twin", pa.struct([("a", pa.int64()), ("A", pa.int64())])),
        ("tags", pa.list_(pa.string())),
        ('q"q', pa.int64()),
    ]
)
ROW: dict[str, Any] = {
    "text": "lower", "Text": "upper", "n": 1, "row": 2, "rows": 3, "order": 4, "a.b": 5,
    "Review Text": "rt", "é": "small", "É": "large", "s": {"a": 6, "b": 7},
    "twin": {"a": 1, "A": 2}, "tags": ["lower", "x"], 'q"q': 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("when", "columns"),
    [
        ("text = 'lower'", {"text"}),
        ("Text = 'upper'", {"Text"}),
        ("\"Text\" = 'upper' AND \"text\" = 'lower'", {"text", "Text"}),
        ("text = 'lower' AND Text = 'upper' AND text <> Text", {"text", "Text"}),
        ("'é' <> text AND Text = 'upper' AND text = 'lower'", {"text", "Text"}),
        ("upper(text) <> upper(Text)", {"text", "Text"}),
        ("\"É\" = 'large' AND 'ÉÉÉ' <> \"É\" AND \"Text\" <> \"text\"", {"É", "text", "Text"}),
        ("text.upper() = 'LOWER' AND Text.length() = 5", {"text", "Text"}),
        ("cast(text AS Text) = 'lower'", {"text"}),
        ("é = 'small'", {"é"}),
        ("é = 'small' AND É = 'large'", {"é", "É"}),
        ("\"Review Text\" = 'rt'", {"Review Text"}),
        ("\"review text\" = 'rt'", {"Review Text"}),
        ('"a.b" = 5', {"a.b"}),
        ('"order" = 4 AND "row" = 2 AND row = 2', {"order", "row"}),
        ("rows = 3", {"rows"}),
        ("s.a = 6 AND S.b = 7 AND s['b'] = 7", {"s"}),
        ("list_contains(list_filter(tags, lambda t: t = text), Text.lower()) = false",
         {"tags", "text", "Text"}),
        ("len(list_filter(tags, lambda text: text = 'x')) = 1 AND Text = 'upper'",
         {"tags", "Text"}),
        ("len([t for t in tags if t = text]) = 1 AND Text = 'upper'", {"tags", "text", "Text"}),
        ("len([text for text in tags if text = 'x']) = 1 AND text <> Text",
         {"tags", "text", "Text"}),
        ("\"Review Text\".upper() = 'RT'", {"Review Text"}),
        ('"q""q" = 8', {'q"q'}),
        ("n = 1 -- text", {"n"}),
        ("N = 1", {"n"}),
    ],
)  # fmt: skip
def test_a_name_means_the_column_as_it_is_written(when: str, columns: set[str]) -> None:
    """Also where SQL takes two columns for one; each of these is true of the row."""
    made = Router([Route(name="a", model="m", when=when), Route(name="b", model="m")], TWINS)
    assert made.columns == columns
    assert made.assign([Row(0, ROW)]) == ["a"]


def test_each_route_means_its_own_column() -> None:
    """One route names `text` and the next `Text`."""
    whens = ["text = 'x'", "Text = 'x'", "text = 'lower' AND \"Text\" = 'upper'"]
    routes = [Route(name=f"r{i}", model="m", when=when) for i, when in enumerate(whens)]
    made = Router([*routes, Route(name="rest", model="m")], TWINS)
    values = [{"text": "x"}, {"Text": "x"}, ROW, {"text": "upper", "Text": "lower"}]
    assert made.assign([Row(i, one) for i, one in enumerate(values)]) == ["r0", "r1", "r2", "rest"]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("TEXT = 'x'", "may be the column 'text' or 'Text'"),
        ("twin.a = 1", "fields 'a' and 'A' SQL cannot tell apart"),
        ("list_filter(tags, TEXT -> TEXT = 'x') IS NULL", "may be the column"),
        ("'Review Text' = 'rt'", "in double quotes the column"),
        ("text_1 = 'upper'", "cannot be evaluated"),
        ("order = 4", "double quotes"),
        ('"nope" = 4', "cannot be evaluated"),
        ("text > 4", "`input.schema: {text: int64}`"),
        ('"Review Text" > 4', '`input.schema: {"Review Text": int64}`'),
        ("text.n > 4", "`input.schema: {text: 'struct<field: int64>'}`"),
    ],
)
def test_a_name_that_could_mean_another_column_is_refused(when: str, said: str) -> None:
    """Never the other one."""
    with pytest.raises(SpecError) as caught:
        Router([Route(name="a", model="m", when=when), Route(name="b", model="m")], TWINS)
    assert "routes.a.when" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "when"),
    [
        (pa.float16(), 0.5, "x = 0.5"),
        (pa.decimal256(50, 2), Decimal("1.50"), "x > 1.25"),
        (pa.list_(pa.float16()), [0.5, None], "x[1] = 0.5"),
        (pa.large_list(pa.float16()), [0.5], "len(x) = 1"),
        (pa.list_(pa.float16(), 1), [0.5], "x[1] = 0.5"),
        (pa.struct([("h", pa.float16())]), {"h": 0.5}, "x.h = 0.5"),
        (pa.map_(pa.string(), pa.float16()), {"k": 0.5}, "x['k'] = 0.5"),
    ],
)
def test_types_that_duckdb_lacks_are_compared_as_floats(
    kind: pa.DataType, value: Any, when: str
) -> None:
    """Half floats and long decimals, also within others; a null stays null."""
    routes = [Route(name="a", model="m", when=when), Route(name="b", model="m")]
    found = Router(routes, pa.schema([("x", kind)]))
    assert found.assign(rows({"x": value}, {"x": None})) == ["a", "b"]
