"""The rows that an SQL expression picks, as for `show --where`."""

from __future__ import annotations

import pyarrow as pa
import pytest

from gemma_batch.errors import SpecError
from gemma_batch.planning.row_filter import RowFilter

ROWS = pa.table(
    {
        "id": ["a", "b", "c", None],
        "output": ["yes", "no", None, "it's 5"],
        "answer": [{"label": "x", "score": 0.5}, {"label": "y", "score": 0.9}, None, None],
        "Text": ["one", "two", "three", "four"],
        "text": ["1", "2", "x", "4"],
        "my col": [1, 2, 3, 4],
        "half": pa.array([1, 2, 3, 4], pa.float16()),
    }
)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("output = 'yes'", [0]),
        ("output <> 'yes'", [1, 3]),
        ("OUTPUT like '%5'", [3]),
        ("answer.score > 0.6", [1]),
        ("answer.label in ('x', 'y') and id = 'a'", [0]),
        ('"my col" >= 3', [2, 3]),
        ("\"Text\" = 'two'", [1]),
        ('"text"::int > 1 or "Text" = \'three\'', [1, 3]),
        ("text::int > 0", [0, 1, 3]),
        ("half > 3", [3]),
        ("true", [0, 1, 2, 3]),
        ("false", []),
        ("id is null", [3]),
        ("length(output)", [0, 1, 3]),
        ("output = 'yes' -- the first", [0]),
        ("1/0 > 1", [0, 1, 2, 3]),
        ("id = null", []),
    ],
)
def test_rows_are_picked(text: str, places: list[int]) -> None:
    """By text, fields, quoted names, exact names, casts that fail on some rows, half floats."""
    found = RowFilter(text, ROWS.schema, "--where")
    assert found.places(ROWS) == places
    assert set(found.columns) <= set(ROWS.schema.names)


def test_only_the_named_columns_are_read() -> None:
    """A part is read column by column."""
    assert RowFilter("answer.score > 0 and id = 'a'", ROWS.schema, "x").columns == ["id", "answer"]
    assert RowFilter("true", ROWS.schema, "x").columns == []


@pytest.mark.parametrize(
    "text",
    [
        "outputs = 'x'",
        "output = ",
        "",
        "output = 'a'; drop table x",
        "select 1",
        "(select count(*) from range(9)) > 1",
        "count(id) > 1",
        "* > 1",
        "answer.nothing = 1",
        "TEXT = 'one'",
        "output = 'x' order by id",
        "(true) ) or (id = 'a'",
        "id in (select content from read_text('/etc/passwd'))",
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(text: str) -> None:
    """The sentence shows the expression and names the columns."""
    with pytest.raises(SpecError) as refused:
        RowFilter(text, ROWS.schema, "--where")
    said = str(refused.value)
    assert said.startswith("--where")
    assert "columns: id, output, answer, Text, text, my col, half" in said
    assert "\n" not in said
