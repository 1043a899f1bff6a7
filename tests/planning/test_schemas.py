"""Schemas that differ: wider types where no value changes, a refusal that names both files."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.errors import InputError, SpecError
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.settling import settled, unsettled
from gemma_batch.planning.widening import wider_type
from gemma_batch.rows import Row
from gemma_batch.spec import JobSpec
from gemma_batch.storage.keep import check_keep, keep_table

US, NS = pa.timestamp("us"), pa.timestamp("ns")
DAY = datetime.date(2026, 1, 2)
PRICES = [Decimal("1.5"), Decimal("1.25")]
NOON = datetime.datetime(2026, 1, 2, 12)


@pytest.mark.parametrize(
    ("one", "other", "wider"),
    [
        (pa.null(), pa.int64(), pa.int64()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int8(), pa.uint8(), pa.int16()),
        (pa.int64(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.decimal128(20, 0)),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.date32(), US, US),
        (pa.date32(), pa.timestamp("us", "UTC"), None),
        (US, NS, NS),
        (pa.timestamp("us", "UTC"), US, None),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Asia/Tokyo"), None),
        (pa.time32("ms"), pa.time64("us"), pa.time64("us")),
        (pa.duration("s"), pa.duration("ms"), pa.duration("ms")),
        (pa.decimal128(10, 2), pa.decimal128(8, 4), pa.decimal128(12, 4)),
        (pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal256(48, 10)),
        (pa.decimal128(5, 2), pa.int64(), pa.decimal128(22, 2)),
        (pa.decimal128(5, 2), pa.float64(), None),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.binary(), None),
        (pa.binary(4), pa.binary(), pa.binary()),
        (pa.string(), pa.int64(), None),
        (pa.bool_(), pa.int64(), None),
        (pa.list_(pa.int32()), pa.list_(pa.float64()), pa.list_(pa.float64())),
        (pa.list_(pa.int32()), pa.list_(pa.string()), None),
        (pa.list_(pa.int32()), pa.int32(), None),
        (
            pa.struct([("a", pa.int32())]),
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
        ),
        (pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int64()),
         pa.map_(pa.string(), pa.int64())),
    ],
)  # fmt: skip
def test_types_are_widened(one: pa.DataType, other: pa.DataType, wider: pa.DataType | None) -> None:
    """In both orders."""
    assert wider_type(one, other) == wider
    if not pa.types.is_struct(one):
        assert wider_type(other, one) == wider


def planned(folder: Path, model: str | None, **changes: Any) -> Plan:
    spec: dict[str, Any] = {
        "input": {"path": str(folder / "in"), **changes.pop("input", {})},
        "prompt": {"user": "{{ text }}"},
        **({"model": model} if model else {}),
        "sampling": {"max_tokens": 4},
        "output": {"path": str(folder / "out"), "keep": changes.pop("keep", [])},
        "resources": {"engine": "echo", "max_model_len": 64},
    }
    return make_plan(JobSpec.from_dict({**spec, **changes}))


def put(folder: Path, *files: list[dict[str, Any]] | pa.Table) -> None:
    (folder / "in").mkdir(exist_ok=True)
    for i, rows in enumerate(files):
        if isinstance(rows, pa.Table):
            pq.write_table(rows, folder / "in" / f"{i}.parquet")
        else:
            text = "\n".join(map(json.dumps, rows))
            (folder / "in" / f"{i}.jsonl").write_text(text)


def column(kind: pa.DataType, *values: Any) -> pa.Table:
    return pa.table({"text": ["t"] * len(values), "x": pa.array(values, kind)})


def rows_of(plan: Plan) -> list[Row]:
    return [
        row
        for shard in plan.survey.shards
        for row in shard.reader.read(shard.file, shard.reader.head(shard.file, 10**6), None)
    ]


def kept(plan: Plan) -> list[Any]:
    """What the column `x` has in the output; the text of the error for a row that fails."""
    found: list[Any] = []
    for row in rows_of(plan):
        try:
            check_keep(row.values or {}, plan.survey.keep_schema)
            found += keep_table([row], plan.survey.keep_schema)["x"].to_pylist()
        except ValueError as err:
            found.append(str(err))
    return found


@pytest.mark.parametrize(
    ("tables", "kind", "values"),
    [
        ([column(pa.int32(), 1), column(pa.int64(), 2**40)], "int64", [1, 2**40]),
        ([column(pa.null(), None), column(pa.date32(), DAY)], "date32[day]", [None, DAY]),
        ([column(pa.date32(), DAY), column(US, NOON)], "timestamp[us]",
         [datetime.datetime(2026, 1, 2), NOON]),
        ([column(pa.int64(), 7), column(pa.float64(), 2.5)], "double", [7.0, 2.5]),
        ([column(pa.float32(), 19.99), column(pa.float64(), 2.5)], "double", [19.99, 2.5]),
        ([column(pa.decimal128(4, 1), PRICES[0]), column(pa.decimal128(5, 2), PRICES[1])],
         "decimal128(5, 2)", PRICES),
        ([column(pa.uint64(), 2**64 - 1), column(pa.int64(), -1)], "decimal128(20, 0)",
         [Decimal(2**64 - 1), Decimal(-1)]),
    ],
)  # fmt: skip
def test_files_of_other_types_are_kept_in_one(
    tmp_path: Path, model: str, tables: list[pa.Table], kind: str, values: list[Any]
) -> None:
    """Each value as it was."""
    put(tmp_path, *tables)
    plan = planned(tmp_path, model, keep=["x"])
    assert str(plan.survey.keep_schema.field("x").type) == kind
    assert kept(plan) == values


def test_a_number_that_would_change_fails_its_row(tmp_path: Path, model: str) -> None:
    """2**53 + 1 is no float."""
    put(tmp_path, column(pa.int64(), 2**53 + 1, 2**60), column(pa.float64(), 2.5))
    bad, large, good = kept(planned(tmp_path, model, keep=["x"]))
    assert "double and cannot hold 9007199254740993" in bad
    assert (large, good) == (2.0**60, 2.5)


def test_a_conflict_names_both_files(tmp_path: Path, model: str) -> None:
    """And the way out; a column that the job does not use does not matter."""
    put(tmp_path, column(pa.int32(), 1), column(pa.int64(), 2), column(pa.string(), "n/a"))
    planned(tmp_path, model)
    routes = [{**route, "model": model} for route in ROUTES]
    for change in ({"keep": ["x"]}, {"prompt": {"user": "{{ text }} {{ x }}"}}, {"routes": routes}):
        with pytest.raises(InputError) as caught:
            planned(tmp_path, None if "routes" in change else model, **change)
        text = str(caught.value)
        assert "'x' is int64 in" in text
        assert text.index("1.parquet") < text.index("and string in") < text.index("2.parquet")
        assert "`input.schema: {x: string}`" in text
    plan = planned(tmp_path, model, keep=["x"], input={"schema": {"x": "string"}})
    assert kept(plan) == ["1", "2", "n/a"]


def test_json_lines_settle_on_all_rows(tmp_path: Path, model: str) -> None:
    """What the first thousand rows did not show costs no row, in this file or a later one."""
    rows: list[dict[str, Any]] = [{"text": "t", "x": i, "y": i, "z": None} for i in range(1500)]
    rows[1200].update(x=2.5, z=["a"])
    put(tmp_path, rows, [{"text": "t", "x": 1, "y": 2}] * 1100 + [{"text": "t", "y": {"a": 1}}])
    plan = planned(tmp_path, model, keep=["x", "y", "z"])
    assert {f.name: str(f.type) for f in plan.survey.keep_schema} == {
        "x": "int64", "y": "int64", "z": "string",
    }  # fmt: skip
    survey = settled(plan.survey, plan.spec)
    assert {f.name: str(f.type) for f in survey.keep_schema} == {
        "x": "double", "y": "string", "z": "list<item: string>",
    }  # fmt: skip
    for row in rows_of(plan):
        check_keep(row.values or {}, survey.keep_schema)


def test_declared_columns_are_not_looked_at_again(tmp_path: Path, model: str) -> None:
    """Nor are text columns: nothing can surprise them."""
    put(tmp_path, [{"text": "t", "x": 1, "y": "a"}])
    assert unsettled(planned(tmp_path, model, keep=["x", "y"]).survey) == {"x": pa.int64()}
    declared = planned(tmp_path, model, keep=["x", "y"], input={"schema": {"x": "float64"}})
    assert unsettled(declared.survey) == {}
    assert str(declared.survey.keep_schema.field("x").type) == "double"


def test_a_declared_field_need_not_show_in_the_sample(tmp_path: Path, model: str) -> None:
    """In JSON lines. In Parquet a column that no file has is a mistake."""
    put(tmp_path, [{"text": "t"}] * 1100 + [{"text": "t", "x": "2026-01-02"}])
    with pytest.raises(SpecError, match="'x'"):
        planned(tmp_path, model, keep=["x"])
    plan = planned(tmp_path, model, keep=["x"], input={"schema": {"x": "date"}})
    assert kept(plan)[-1] == DAY
    with pytest.raises(SpecError, match=r"input\.schema names the column 'xx'"):
        planned(tmp_path, model, input={"schema": {"xx": "date"}})
    put(tmp_path, pa.table({"text": ["t"]}))
    (tmp_path / "in" / "0.jsonl").unlink()
    with pytest.raises(SpecError, match=r"input\.schema names the column 'x'"):
        planned(tmp_path, model, input={"schema": {"x": "date"}})


ROUTES = [{"name": "dear", "when": "x > 10", "model": ""}, {"name": "rest", "model": ""}]


@pytest.mark.parametrize(
    ("when", "late", "route", "noted"),
    [
        ("x IS NULL", "free", "rest", True),
        ("x IS NULL OR text = 't'", "free", "rest", True),
        ("x IS NULL", 2.5, "rest", False),
        ("x IS NULL", None, "dear", False),
        ("NOT (x < 10)", {"eur": 5}, "rest", True),
        ("text = 't'", "free", "dear", False),
        ("x > 10", 2**70, "rest", True),
        ("x > 10", 2**60, "dear", False),
        ("x > 10", True, "rest", True),
    ],
)
def test_a_late_value_of_another_type_is_no_null(
    tmp_path: Path, model: str, when: str, late: Any, route: str, noted: bool
) -> None:
    """A `when` about its column does not match it, and the run says so."""
    put(tmp_path, [{"text": "t", "x": 9}] * 1100 + [{"text": "t", "x": late}])
    routes = [{**ROUTES[0], "when": when, "model": model}, {**ROUTES[1], "model": model}]
    plan = planned(tmp_path, None, routes=routes)
    survey = settled(plan.survey, plan.spec)
    assert survey.router.assign(rows_of(plan))[-1] == route
    notes = survey.notes[len(plan.survey.notes) :]
    assert len(notes) == noted
    assert all(
        "int64 in the column 'x', and later rows have values of another" in note for note in notes
    )
    assert all("`input.schema: {x: string}`" in note for note in notes)


@pytest.mark.parametrize("early", [[None], [1, "n/a"]])
def test_a_when_about_a_column_that_looks_like_text(
    tmp_path: Path, model: str, early: list[Any]
) -> None:
    """The refusal names the declaration with which the plan works."""
    put(tmp_path, [{"text": "t", "x": x} for x in early * 1100] + [{"text": "t", "x": 11}])
    given = {"routes": [{**route, "model": model} for route in ROUTES]}
    with pytest.raises(SpecError, match=r"'x' is text: .*`input\.schema: \{x: int64\}`"):
        planned(tmp_path, None, **given)
    plan = planned(tmp_path, None, **given, input={"schema": {"x": "int64"}})
    assert plan.survey.router.assign(rows_of(plan))[-1] == "dear"


@pytest.mark.parametrize(
    ("files", "routes"),
    [
        ([[{"x": 9}] * 1100 + [{"x": 10.5}, {"x": "free"}, {"x": 11}]], ["dear", "rest", "dear"]),
        ([[{"x": 9}], [{"x": 10.5}, {"x": 2**53 + 1}, {"x": None}]], ["dear", "dear", "rest"]),
        ([column(pa.int64(), 9), column(pa.float64(), 10.5, 9.5)], ["rest", "dear", "rest"]),
        ([column(pa.uint64(), 2**64 - 1), column(pa.int64(), 11, -5)], ["dear", "dear", "rest"]),
    ],
)
def test_rows_take_the_route_of_the_value_that_a_prompt_shows(
    tmp_path: Path, model: str, files: list[Any], routes: list[str]
) -> None:
    """10.5 is more than 10, also where the first rows held whole numbers."""
    files = [
        [{"text": "t", **row} for row in rows] if isinstance(rows, list) else rows for rows in files
    ]
    put(tmp_path, *files)
    given = [{**route, "model": model} for route in ROUTES]
    plan = planned(tmp_path, None, routes=given)
    survey = settled(plan.survey, plan.spec)
    rows = rows_of(plan)
    assert survey.router.assign(rows)[-len(routes) :] == routes
