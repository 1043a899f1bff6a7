"""Each wall holds on its own: behind the first refusal there is a second, and every size ends."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from gemma_batch.errors import SpecError
from gemma_batch.planning.routing import Router, connect
from gemma_batch.prompts.template import RowProblem, Template
from gemma_batch.spec import JobSpec, Route
from gemma_batch.spec.yaml_text import MAX_CHARS, MAX_DEPTH, apply_overrides, parse_yaml
from gemma_batch.storage.formats import reader_for
from gemma_batch.storage.keep import check_keep, keep_column
from gemma_batch.storage.listing import stat

VALID = {"input": {"path": "in"}, "model": "m", "output": {"path": "out"}}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT content FROM read_text('{bait}')",
        "SELECT * FROM '{bait}'",
        "COPY (SELECT 1) TO '{bait}.new'",
        "ATTACH '{bait}.db' AS d",
        "EXPORT DATABASE '{bait}.new'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{bait}'",
        "SET enable_external_access=true",
        "SET lock_configuration=false",
        "SET threads=2",
        "SET temp_directory='{bait}.new'",
        "SELECT * FROM from_outside",
    ],
)
def test_the_connection_alone_reaches_nothing(query: str, tmp_path: Path) -> None:
    """Even if the check of an expression let anything through, DuckDB itself may not."""
    import duckdb

    bait = tmp_path / "bait.csv"
    bait.write_text("x\n1\n")
    from_outside = pa.table({"x": [1]})
    connection = connect()
    with pytest.raises(duckdb.Error):
        connection.execute(query.replace("{bait}", str(bait))).fetchall()
    assert list(tmp_path.iterdir()) == [bait]
    assert from_outside.num_rows == 1


@pytest.mark.parametrize(
    "when",
    ["(SELECT sum(n) FROM rows) > 1", "(SELECT 1) = 1", "n > ALL (SELECT 1)", "n IN (SELECT 1)"],
)
def test_a_subquery_is_refused_even_without_a_star(when: str) -> None:
    """Its answer would depend on which rows happen to be looked at together."""
    routes = [Route(name="a", model="m", when=when), Route(name="b", model="m")]
    with pytest.raises(SpecError, match="only the row is at hand"):
        Router(routes, pa.schema([("n", pa.int64())]))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [101, 900, 20_000])
@pytest.mark.parametrize("kind", ["jsonl", "openai"])
def test_a_line_nested_too_deeply_costs_its_row(tmp_path: Path, kind: str, depth: int) -> None:
    """Whatever the parser takes: what comes after it recurses over the value."""
    deep = nested(depth)
    good = {"custom_id": "b", "body": {"messages": []}, "n": [[1]]}
    line = f'{{"custom_id": "a", "body": {{"messages": {deep}}}}}'
    path = tmp_path / "x.jsonl"
    path.write_text(f"{line}\n{json.dumps(good)}\n")
    file, reader = stat(str(path)), reader_for(kind)
    bad, after = reader.read(file, reader.head(file, 2), None)
    assert bad.failure is not None
    assert bad.failure.code == "bad_row"
    assert "deep" in bad.failure.message
    assert after.failure is None


def test_ordinary_nesting_is_read(tmp_path: Path) -> None:
    """The limit is far above what people write; brackets inside text do not count."""
    rows = [{"a": json.loads(nested(90))}, {"a": "[" * 5000}, {"a": [[1]] * 200}]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, reader = stat(str(path)), reader_for("jsonl")
    assert [row.values for row in reader.read(file, reader.head(file, 3), None)] == rows


TOO_MUCH = {
    "deep list": f"x: {nested(MAX_DEPTH + 1)}",
    "deep mapping": "x: " + "{a: " * 300 + "1" + "}" * 300,
    "deep by aliases": "\n".join([f"a0: &a0 {nested(30)}", "a1: " + "[" * 30 + "*a0" + "]" * 30]),
    "long": "x: " + "a" * MAX_CHARS,
    "long list": "x: [" + "a," * MAX_CHARS,
    "hexadecimal": "x: 0x" + "f" * 9000,
    "base 60": "x: 1" + ":1" * 100_000,
    "bytes": "x: !!binary /w==",
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_spec_that_could_not_be_written_down_again_is_refused(text: str) -> None:
    """At once and in one short sentence: it would fail later, in the manifest or a message."""
    started = time.process_time()
    with pytest.raises(SpecError, match=r"'job\.yaml'") as caught:
        parse_yaml(text, where="job.yaml")
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "override",
    [
        "resources.engine_args.x=" + nested(MAX_DEPTH + 1),
        "resources.engine_args.x=!!binary /w==",
        "resources.engine_args.x=" + "a" * (MAX_CHARS + 1),
        "a." * 5000 + "b=1",
        "routes." + "9" * 5000 + "=1",
        "model." + "b" * 5000 + "=1",
        "no equals sign " * 1000,
    ],
    ids=lambda override: override[:24],
)
def test_an_override_of_that_kind_is_refused_too(override: str) -> None:
    """What is quoted of it is short."""
    with pytest.raises(SpecError, match="--set") as caught:
        apply_overrides({**VALID, "routes": [{}]}, [override])
    assert len(str(caught.value)) < 400


def test_a_huge_number_is_text_to_an_override_and_shown_short_in_a_message() -> None:
    """Python refuses to print a number of thousands of digits; a refusal must not fail on it."""
    text = "0x" + "f" * 9000
    assert apply_overrides({}, [f"x={text}"]) == {"x": text}
    for value in (16**9000, [16**9000]):
        with pytest.raises(SpecError, match="model"):
            JobSpec.from_dict({**VALID, "model": value})
    with pytest.raises(SpecError, match="a huge number"):
        apply_overrides({"a": 16**9000}, ["a.b=1"])


def test_what_a_spec_may_hold_survives_the_manifest() -> None:
    """The deepest and the longest allowed: to plain data, to JSON and back."""
    levels = MAX_DEPTH - 4  # the spec's own mappings and the document around it
    text = yaml.safe_dump({**VALID, "prompt": {"user": "a" * 10**6}})
    text += f"resources: {{engine_args: {{x: {nested(levels)}, y: {'9' * 100}}}}}\n"
    spec = JobSpec.from_dict(parse_yaml(text, where="job.yaml"))
    assert JobSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("value", [[(None, 1)], {None: 1}, [("a", 1), (None, None)]])
def test_a_map_with_a_null_key_is_refused(value: Any) -> None:
    """Arrow takes the pair by itself and refuses the whole column, that is, all its rows."""
    kind = pa.map_(pa.string(), pa.int64())
    with pytest.raises(ValueError, match="'kept'"):
        check_keep({"kept": value}, pa.schema([("kept", kind)]))
    assert keep_column([value, {"a": 1}], kind).to_pylist() == [None, [("a", 1)]]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ('a' * 10**7).translate({97: 'b' * 10**4}) }}",
        "{{ 5 | round(-10**9) }}",
        "{{ 5 | round(10**9, 'ceil') }}",
    ],
)
def test_what_grows_by_a_table_or_a_power_is_bounded_too(source: str) -> None:
    """The row fails at once; the same operations of ordinary size are left alone."""
    started = time.process_time()
    with pytest.raises(RowProblem, match="too large"):
        Template(source).render({"x": "a"})
    assert time.process_time() - started < 5
    ordinary = "{{ 2.345 | round(1) }} {{ 25 | round(-1) }} {{ x.translate({97: 'cc'}) }}"
    assert Template(ordinary).render({"x": "ab"}).text == "2.3 20 ccb"
