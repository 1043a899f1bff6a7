"""Routing: each row takes exactly one route, and SQL in a spec reaches nothing but the row."""

from __future__ import annotations

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
