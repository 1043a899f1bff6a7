"""Columns: each is usable whatever its name and place, and never another one instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.errors_file import errors_from_input
from gemma_batch.errors import SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.sample import sample_routes
from gemma_batch.prompts.template import Template
from gemma_batch.reading.prepare import Preparer
from gemma_batch.reading.source import unit_rows
from gemma_batch.rows import Completion, Outcome
from gemma_batch.spec import JobSpec
from gemma_batch.storage.formats import STAGED
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.readers.reader import Span
from gemma_batch.storage.readers.staged import staged_file, staged_table
from gemma_batch.units.payload import decode, encode
from gemma_batch.units.unit import Shard, shard_from

Files = dict[str, Any]


def written(folder: Path, files: Files) -> Path:
    """Each file: a list of rows for Parquet or JSON lines, a table, or the bytes."""
    for name, content in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            table = content if isinstance(content, pa.Table) else pa.Table.from_pylist(content)
            pq.write_table(table, path)
    return folder / "in"


@pytest.fixture
def plan(tmp_path: Path, model: str) -> Callable[..., Plan]:
    def make(files: Files, user: str = "{{ row['t'] }}", **parts: Any) -> Plan:
        data = {
            "input": {"path": str(written(tmp_path, files))},
            "prompt": {"user": user},
            "model": model,
            "sampling": {"max_tokens": 4},
            "output": {"path": str(tmp_path / "out")},
            "resources": {"engine": "echo", "max_model_len": 400, "device": "cpu"},
        }
        for name, changes in parts.items():
            data[name] = {**data[name], **changes} if isinstance(changes, dict) else changes
        if "routes" in data:
            del data["model"]
        return make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None, memory_gib=8))

    return make


def seen(made: Plan) -> list[dict[str, Any]]:
    """What becomes of each row: its prompt or failure code, its id and its kept values."""
    preparer = Preparer(made.job(made.routes[0]))
    found = []
    for unit in made.units():
        # As they are when another start reads them from the manifest.
        plain = json.loads(json.dumps([shard.plain() for shard in made.survey.shards]))
        prepared = preparer.prepare([shard_from(data) for data in plain], unit)
        tokens = {request.number: request.prompt for request in prepared.requests}
        for i, number in enumerate(prepared.numbers):
            failure = prepared.failures.get(number)
            text = failure.code if failure else "" if number not in tokens else "answered"
            kept = {name: prepared.keep[name][i].as_py() for name in prepared.keep.column_names}
            found.append({"": text, "id": prepared.ids[i], **kept})
    return found


def prompts(made: Plan) -> list[str]:
    """The text that each row puts into the prompt."""
    template = Template(made.spec.prompt.user or "")
    rows = []
    for shard in made.survey.shards:
        (span,) = shard.reader.index(shard.file, max_rows=99, max_bytes=2**20)
        rows += list(shard.reader.read(shard.file, span, list(made.survey.columns)))
    return [template.render(row.values or {}).text for row in rows]


TWINS = pa.table({"Text": ["upper"], "text": ["lower"]})
DOUBLED = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["x", "x", "t"])


@pytest.mark.parametrize(
    ("files", "user", "expected"),
    [
        ({"a.parquet": [{"A b": "x", "a.b": "y"}]}, "{{ row['A b'] }}{{ row['a.b'] }}", ["xy"]),
        ({"a.parquet": TWINS}, "{{ text }}|{{ Text }}", ["lower|upper"]),
        ({"a.jsonl": [{"self": "S", "loop": "L", "range": "R"}]}, "{{ self }}{{ loop }}{{ range }}",
         ["SLR"]),
        ({"a.parquet": [{"row": "R", "t": "T"}]}, "{{ row['row'] }}{{ row.t }}", ["RT"]),
        ({"a.parquet": [{"b": 1, "a": {"c": None}}]}, "{{ row | tojson }}",
         ['{"b": 1, "a": {"c": null}}']),
        ({"a.csv": "a b,größe\n1,2\n".encode()}, "{{ row['a b'] }}{{ größe }}", ["12"]),
        # a doubled column that is not used
        ({"a.parquet": DOUBLED}, "{{ t }}", ["c"]),
        ({"a.csv": b"t,,\nc,1,2\n"}, "{{ t }}", ["c"]),
        # columns that some files or rows lack
        ({"a.parquet": [{"t": "x", "n": 1}], "b.parquet": [{"t": "y"}]},
         "{{ t }}{{ n or '-' }}", ["x1", "y-"]),
        ({"a.parquet": [{"t": "x"}], "b.parquet": [{"n": 2}]},
         "{{ t if t is defined else '-' }}{{ n or '-' }}", ["x-", "-2"]),
        ({"a.jsonl": [{"t": "x", "n": 1}, {"t": "y"}], "b.jsonl": [{"n": None}]},
         "{{ t | default('-') }}{{ n | tojson }}", ["x1", "ynull", "-null"]),
        ({"a.csv": b"t,n\nx,1\n", "b.csv": b"t\ny\n"}, "{{ t }}{{ n is none }}",
         ["xFalse", "yTrue"]),
        # columns in the names of folders
        ({"year=2026/lang=de/a.parquet": [{"t": "x"}], "year=2025/lang=en/b.parquet": [{"t": "y"}]},
         "{{ t }} {{ lang }} {{ year + 1 }}", ["y en 2026", "x de 2027"]),
        ({"year=2026/a.csv": b"t\nx\n"}, "{{ t }}{{ year }}", ["x2026"]),
        ({"day=01/a.jsonl": [{"t": "x"}], "day=12/a.jsonl": [{"t": "y"}]}, "{{ t }}{{ day }}",
         ["x01", "y12"]),
        ({"k=__HIVE_DEFAULT_PARTITION__/a.parquet": [{"t": "x"}], "k=7/a.parquet": [{"t": "y"}]},
         "{{ t }}{{ k | default('null') }}", ["y7", "xnull"]),
        ({"my%20key=a%2Fb%3D/a.parquet": [{"t": "x"}]}, "{{ t }}{{ row['my key'] }}", ["xa/b="]),
        ({"k=a=b/a.parquet": [{"t": "x"}]}, "{{ k }}", ["a=b"]),
        ({"y=1/a.parquet": [{"t": "x"}], "b.parquet": [{"t": "y"}]}, "{{ t }}{{ y or '-' }}",
         ["y-", "x1"]),
        ({"year=2026/a.parquet": [{"t": "x", "year": 1999}]}, "{{ year }}", ["1999"]),
        ({"year=2026/a.jsonl": [{"year": 1999}, {"t": "x"}]}, "{{ year }}", ["1999", "2026"]),
        ({"y=1/a.parquet": [{"t": "x"}]}, "{{ row | tojson }}", ['{"t": "x", "y": 1}']),
    ],
)  # fmt: skip
def test_what_a_prompt_says(
    plan: Callable[..., Plan], files: Files, user: str, expected: list[str]
) -> None:
    """The value of the column that the template names, in each row."""
    assert prompts(plan(files, user)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data", ["x 2026 a b", "y 2025 -"]),
        ("data/year=2026", ["x 2026 a b"]),
        ("data/year=2026/*/*.jsonl", ["x 2026 a b"]),
        ("data/year=2026/k=a%20b/f.jsonl", ["x 2026 a b"]),
    ],
)
def test_folders_in_s3(plan: Callable[..., Plan], s3: Any, path: str, expected: list[str]) -> None:
    """As on a disk; a folder that the path names is a column too."""
    bucket = s3.bucket("folders")
    for key, text in (("year=2026/k=a%20b/f", "x"), ("year=2025/f", "y")):
        s3.client.put_object(
            Bucket="folders", Key=f"data/{key}.jsonl", Body=json.dumps({"t": text, "k2": 1})
        )
    user = "{{ t }} {{ year }} {{ row.get('k') or '-' }}"
    assert sorted(prompts(plan({}, user, input={"path": f"{bucket}/{path}"}))) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, ['x2026"01"null', 'y2025"02"7']),
        ({"year": "string"}, ['x2026"01"null', 'y2025"02"7']),
        ({"month": "int64", "n": "string"}, ["x20261null", 'y20252"7"']),
    ],
)
def test_a_declared_type_counts_for_folders_too(
    plan: Callable[..., Plan], schema: dict[str, str], expected: list[str]
) -> None:
    """`input.schema` names columns, wherever they come from."""
    files = {
        "year=2026/month=01/a.parquet": [{"t": "x"}],
        "year=2025/month=02/b.parquet": [{"t": "y", "n": 7}],
    }
    user = "{{ t }}{{ year }}{{ month | tojson }}{{ n | tojson }}"
    made = plan(files, user, input={"schema": schema}, output={"keep": ["year"]})
    assert sorted(prompts(made)) == expected
    assert [str(kind) for kind in made.survey.keep_schema.types] == [schema.get("year", "int64")]


@pytest.mark.parametrize(
    ("files", "parts", "said"),
    [
        ({"a.parquet": DOUBLED}, {"user": "{{ x }}"}, ["'x'", "a.parquet' has more than once"]),
        ({"a.parquet": DOUBLED}, {"user": "{{ row | tojson }}"}, ["'x'", "more than once"]),
        ({"a.parquet": DOUBLED}, {"output": {"keep": ["x"]}}, ["output.keep", "more than once"]),
        ({"a.parquet": DOUBLED}, {"input": {"id": "x"}}, ["input.id", "more than once"]),
        ({"a.csv": b"t,t\n1,2\n"}, {}, ["'t'", "more than once"]),
        ({"a.parquet": DOUBLED}, {"when": "x = 'a'"}, ["`when`", "'x'", "more than once"]),
        ({"y=1/y=2/a.parquet": [{"t": "x"}]}, {"user": "{{ y }}"}, ["'y'", "more than once"]),
        ({"a.parquet": [{"row": 1, "t": 2}]}, {"user": "{{ row }}"}, ["row['row'] for the column"]),
        ({"a.parquet": [{"row": {"t": 1}, "t": 2}]}, {"user": "{{ row.t }}"}, ["row['row']"]),
        ({"a.parquet": [{"row": {"u": 1}, "t": 2}]}, {"user": "{{ row.u }}"}, ["row['row']"]),
        ({"a.parquet": [{"loop": 1, "t": [1]}]},
         {"user": "{% for x in t %}{{ loop }}{% endfor %}"}, ["row['loop'] for the column"]),
        ({"a.parquet": [{"true": 1, "t": 2}]}, {"user": "{{ true }}"}, ["row['true'] for the"]),
        ({"a.parquet": [{"Review Text": "x"}]}, {"user": "{{ Review }}"},
         ["did you mean {{ row['Review Text'] }}?"]),
        ({"a.parquet": [{"a.b": "x"}]}, {"user": "{{ a.b }}"}, ["did you mean {{ row['a.b'] }}?"]),
        ({"a.parquet": [{"Text": "x"}]}, {"user": "{{ text }}"}, ["did you mean {{ Text }}?"]),
        ({"a.parquet": [{"t": 1, "output": 2}]}, {"output": {"keep": ["output"]}},
         ["output.keep: 'output'", "{input_output: output}"]),
        ({"a.parquet": [{"t": 1, "gold": 2}]}, {"output": {"keep": {"output": "gold"}}},
         ["output.keep: 'output'", "{new name: column}"]),
        ({"a.parquet": [{"t": 1}]}, {"output": {"keep": {"gold": "output"}}},
         ["output.keep names the column 'output'", "does not have"]),
        ({"a.parquet": [{"t": 1, "u": 2}]}, {"output": {"keep": ["t", {"t": "u"}]}},
         ["'t' and 'u'", "would have the name 't'"]),
    ],
)  # fmt: skip
def test_what_is_refused(
    plan: Callable[..., Plan], files: Files, parts: dict[str, Any], said: list[str]
) -> None:
    """By `plan`, before anything costs money, with the way out."""
    if when := parts.pop("when", None):
        route = {"name": "a", "when": when, "model": "google/gemma-3-4b-it"}
        parts["routes"] = [route, {**route, "name": "b", "when": None}]
    with pytest.raises(SpecError) as caught:
        plan(files, **parts)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (["a b", "é.x"], {"a b": 1, "é.x": "y"}),
        ({"gold": "output"}, {"gold": "o"}),
        ({"gold": "output", "other": "a b"}, {"gold": "o", "other": 1}),
        (["a b", {"gold": "output", "g2": "output"}], {"a b": 1, "gold": "o", "g2": "o"}),
        (["a b", "a b"], {"a b": 1}),
        ({"loop": "a b", "": "é.x"}, {"loop": 1, "": "y"}),
        (["k", {"year": "k"}], {"k": 7, "year": 7}),
    ],
)
def test_what_is_kept(plan: Callable[..., Plan], keep: Any, kept: dict[str, Any]) -> None:
    """Under its new name in every file of the output, also when errors are repaired."""
    row = {"a b": 1, "é.x": "y", "output": "o", "t": "x"}
    files = {"k=7/a.parquet": [row, {**row, "t": None}]}
    made = plan(files, "{{ t }}", output={"keep": keep}, input={"id": "é.x"})
    assert seen(made) == [
        {"": "answered", "id": "y", **kept},
        {"": "null_value", "id": "y", **kept},
    ]
    (unit,) = made.units()
    job, (shard,) = made.job(made.routes[0]), made.survey.shards
    sent = encode(Preparer(job).prepare({shard.number: shard}, unit)).to_pylist()[0]
    prepared = decode(sent["unit"], sent["rows"])
    outcomes: dict[int, Outcome] = {0: Completion(["yes"], ["stop"], 3, 1), **prepared.failures}
    store = open_store(made.spec.output.path)
    receipt = commit_unit(store, job, prepared, outcomes, {})
    assert (receipt["answered"], receipt["failures"]) == (1, {"null_value": 1})
    failures = [{"number": 1, "id": "y", "code": "null_value", "message": "m", "attempts": 0}]
    repaired = errors_from_input(
        {shard.number: shard}, unit, job.columns, job.keep_schema, failures
    )
    for data in (store.read(unit.path), store.read(unit.key.errors_path), repaired):
        (found,) = pq.read_table(pa.BufferReader(data)).to_pylist()
        assert list(found)[: len(kept) + 1] == [*kept, "id"]
        assert {name: found[name] for name in kept} == kept
    (seen_by_sql,) = duckdb.sql(f"SELECT * FROM '{store.url}/{unit.path}'").fetchall()
    assert seen_by_sql[: len(kept) + 2] == (*kept.values(), "y", "yes")


def test_old_lists_have_the_fingerprint_that_they_had(plan: Callable[..., Plan]) -> None:
    """So an older output goes on. A rename is another configuration."""
    files = {"a.parquet": [{"t": "x", "u": 1}]}
    fields = plan(files, output={"keep": ["u", "t", "u"]}).fingerprint().fields
    assert fields["output.keep"] == ["u", "t", "u"]
    assert plan(files, output={"keep": {"u": "u"}}).fingerprint().fields["output.keep"] == ["u"]
    renamed = plan(files, output={"keep": {"g": "u"}}).fingerprint().fields
    assert renamed["output.keep"] == [{"g": "u"}]


def test_a_shard_of_an_older_manifest_has_no_constants() -> None:
    """And one with constants comes back from JSON as it was."""
    old = {"number": 0, "url": "y=1/a.csv", "size": 3, "etag": "e", "format": "csv"}
    assert shard_from(old).constants == ()
    assert shard_from(old).plain() == old
    shard = Shard(**old, constants=(("y", 1), ("z", None), ("l", "de")))  # type: ignore[arg-type]
    assert shard_from(json.loads(json.dumps(shard.plain()))) == shard


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"a.parquet": [{"t": "x", "n": 1}], "b.parquet": [{"t": "y"}]},
         "1 of 2 files lack the column 'n', which is null there: "),
        ({"a.jsonl": [{"t": "x", "n": 1}], "b.jsonl": [{"t": "y"}]},
         "in their first rows, 1 of 2 files lack the column 'n'"),
        ({"n=5/a.parquet": [{"t": "x", "n": 1}]}, "the values in the files count"),
        ({"a.parquet": [{"t": "x", "n": 1}], "b.parquet": [{"t": "y", "n": None}]}, None),
        ({"a.parquet": [{"t": "x", "n": 1}, {"t": "y"}]}, None),
    ],
)  # fmt: skip
def test_the_plan_says_where_a_column_is_null(
    plan: Callable[..., Plan], files: Files, note: str | None
) -> None:
    """Only of columns that the job reads."""
    made = plan(files, "{{ t }}{{ n or '' }}")
    assert [found for found in made.notes if "column" in found] == [
        found for found in made.notes if note and note in found
    ]
    assert bool(note) == any("column" in found for found in made.notes)
    assert not plan(files, "{{ t }}").notes


def test_the_plan_says_that_whole_rows_are_of_known_columns(plan: Callable[..., Plan]) -> None:
    """Only where later rows may have more: JSON lines."""
    note = "no column that only later rows have"
    assert note in " ".join(plan({"a.jsonl": [{"t": 1}]}, "{{ row | tojson }}").notes)
    assert not plan({"a.jsonl": [{"t": 1}]}, "{{ row.t }}").notes


def test_whole_rows_of_parquet_need_no_note(plan: Callable[..., Plan]) -> None:
    """A footer has all columns."""
    assert not plan({"a.parquet": [{"t": 1}]}, "{{ row | tojson }}").notes


@pytest.mark.parametrize(
    ("when", "taken"),
    [
        ("year = 2026", ["x"]),
        ("year = '2026'", ["x"]),
        ("lang = 'de' AND year > 2000", ["x", "y"]),
        ("n = 1", ["y"]),
        ("n IS NULL", ["x"]),
        ("\"Te xt\" = 'q'", ["y"]),
    ],
)
def test_when_over_folders_and_absent_columns(
    plan: Callable[..., Plan], model: str, when: str, taken: list[str]
) -> None:
    """SQL sees the columns that templates see."""
    routes = [{"name": "a", "when": when, "model": model}, {"name": "b", "model": model}]
    files = {
        "year=2025/lang=de/b.parquet": [{"t": "y", "n": 1, "Te xt": "q"}],
        "year=2026/lang=de/a.parquet": [{"t": "x", "Te xt": "p"}],
    }
    made = plan(files, routes=routes)
    units = [unit for unit in made.units() if unit.route == "a"]
    columns = list(made.survey.columns)
    rows = [row for unit in units for row in unit_rows(made.survey.shards, unit, columns)]
    found = [row.values for row in rows]
    assert sorted(values["t"] for values in found if values) == sorted(taken)


@pytest.mark.parametrize("uniform", [True, False])
def test_a_sorted_copy_gives_the_same_rows(
    plan: Callable[..., Plan], tmp_path: Path, uniform: bool
) -> None:
    """With values from folders and nulls of absent columns, typed or as JSON."""
    files = {"y=1/a.parquet": [{"t": "x", "n b": 1}], "y=2/b.parquet": [{"t": "z"}]}
    survey = plan(files, "{{ row | tojson }}").survey
    assert survey.uniform
    types = pa.schema([survey.schema.field(name) for name in survey.columns])
    for shard in survey.shards:
        (span,) = shard.reader.index(shard.file, max_rows=9, max_bytes=2**20)
        rows = list(shard.reader.read(shard.file, span, list(survey.columns)))
        table = staged_table(rows, 0, shard.url, types if uniform else None)
        (tmp_path / "copy").write_bytes(staged_file(table))
        copy = Shard(number=9, url=str(tmp_path / "copy"), size=1, etag="", format=STAGED)
        again = list(copy.reader.read(copy.file, Span(0, 1, 0, 0), list(survey.columns)))
        assert [row.values for row in again] == [row.values for row in rows]
    assert rows[0].values == {"t": "z", "n b": None, "y": 2}


def test_the_hint_about_order_writes_columns_as_a_template_does(
    plan: Callable[..., Plan],
) -> None:
    """What it proposes can be copied."""
    rows = [{"the doc": f"{i} {'x' * 9}", "the rules": "r" * 200} for i in range(40)]
    made = plan({"a.parquet": rows}, "{{ row['the doc'] }}{{ row['the rules'] }}")
    hint = sample_routes(made)["all"].hint or ""
    assert hint.startswith("{{ row['the rules'] }} took only 1 values")
    assert "behind {{ row['the doc'] }}" in hint
