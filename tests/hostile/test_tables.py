"""Tables of many kinds through a whole job, against a reader written with DuckDB and pandas alone.

Each table is planned, cut, prepared, answered and committed as in a run, without Ray. Every row of
the simple reader is in the output once, with the values that the reader found.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import Tokenizer

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.repair import settle_errors
from gemma_batch.errors import FailureCode
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning import schemas
from gemma_batch.planning.passes import Failed, derive
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.settling import settled
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Failure, Outcome
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.readers import jsonl
from gemma_batch.units.payload import Prepared, decode, encode
from gemma_batch.units.unit import Unit, read_units, write_units
from tests.examples import LONG
from tests.hostile.simple_reader import Found, as_shown, as_text, matches, output, read, same
from tests.hostile.table_files import write
from tests.hostile.tables import FOLDER, PLAIN_NAMES, Table, tables

EXAMPLES = 2000 if LONG else 50


@pytest.fixture(scope="module")
def tokenizer(model: str) -> Tokenizer:
    """To read prompts with, not to make them."""
    return Tokenizer.from_file(f"{model}/tokenizer.json")


HARMS = {"gone": "shard_unreadable", "replaced": "shard_changed"}


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table says by how many rows and files types are guessed; this ends with the test."""
    monkeypatch.setattr(jsonl, "SAMPLED_ROWS", jsonl.SAMPLED_ROWS)
    monkeypatch.setattr(schemas, "LOOKED_AT", schemas.LOOKED_AT)


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def spec_of(table: Table, folder: Path, paths: list[Path], model: str) -> JobSpec:
    path: Any = {
        "folder": str(folder / "in"),
        "glob": f"{folder}/in/**/*.{table.format}{table.packed}",
        "list": [str(path) for path in reversed(paths)],
    }[table.path]
    names = [name for name, _ in table.columns]
    routes: dict[str, Any] = {"model": model}
    if table.when is not None:
        place, when = table.when
        first = {"name": "first", "model": model, "when": when.format(c=quoted(names[place]))}
        routes = {"routes": [first, {"name": "rest", "model": model}]}
    keep: Any = {new: names[place] for place, new in table.keep}
    return JobSpec.from_dict(
        {
            "input": {"path": path, **({"id": table.key[0]} if table.id else {})},
            "prompt": {"user": "Say: {{ %s }}" % printed(names[table.text])},  # noqa: UP031
            **routes,
            "sampling": {"max_tokens": 4},
            "output": {"path": str(folder / "out"), "keep": keep},
            "resources": {"engine": "echo", "max_model_len": 2048},
            "policy": {"unit_rows": table.unit_rows} if table.unit_rows else {},
        }
    )


def printed(name: str) -> str:
    """A column in a template."""
    return name if name in PLAIN_NAMES else f"row[{json.dumps(name, ensure_ascii=False)}]"


def plan_of(spec: JobSpec) -> Plan:
    """The plan that a run makes."""
    plan = make_plan(spec).placed(Hardware(gpu=None))
    return replace(plan, survey=settled(plan.survey, plan.spec))


class Run:
    """What a run does with the rows of a plan; the answer to a prompt is the prompt's text."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer) -> None:
        self.plan, self.tokenizer = plan, tokenizer
        self.store = open_store(plan.spec.output.path)
        self.ledger = Ledger(self.store)
        self.jobs = {route.route.name: plan.job(route) for route in plan.routes}
        self.preparers = {name: Preparer(job) for name, job in self.jobs.items()}
        self.units = plan.units()

    def commit(self, units: list[Unit], *, flaky: bool = False) -> None:
        """Answer and commit units; in a `flaky` engine every third row fails."""
        for unit in units:
            prepared = self.prepared(unit)
            outcomes: dict[int, Outcome] = dict(prepared.failures)
            for request in prepared.requests:
                text = self.tokenizer.decode(request.prompt.token_ids, skip_special_tokens=False)
                answer = Completion([text], ["stop"], request.prompt.tokens, 1)
                lost = flaky and request.number % 3 == 0
                outcomes[request.number] = Failure("engine_error", "lost", 3) if lost else answer
            commit_unit(self.store, self.jobs[unit.route], prepared, outcomes, {})
        assert not self.ledger.remaining(units)

    def prepared(self, unit: Unit) -> Prepared:
        shards = self.plan.survey.shards
        (unit,) = read_units(write_units([unit]), unit.generation)
        made = encode(self.preparers[unit.route].prepare(shards, unit))
        return decode(made["unit"][0].as_py(), made["rows"][0].as_buffer())

    def retry(self) -> None:
        """Run the rows again that a flaky engine failed."""
        pick = Failed({"engine_error"})
        self.commit(derive(self.store, self.units, self.ledger.receipts(), pick, 1))
        self.settle()

    def settle(self) -> None:
        """Bring `errors/` into agreement with the parts, from their footers and the input."""
        shards = {shard.number: shard for shard in self.plan.survey.shards}
        columns, keep = self.plan.survey.columns, self.plan.survey.keep_schema
        settle_errors(self.store, shards, self.units, self.ledger.receipts(), columns, keep)

    def lose_errors(self) -> None:
        """As after a crash between the put of a part and the put of its errors."""
        for path in self.ledger.errors().values():
            self.store.delete(path)


def fate(table: Table, row: Found) -> str | None:
    """The failure code of a row; None when it is answered."""
    if row.file == table.harm[0]:
        return HARMS[table.harm[1]]
    if row.values is None:
        return "bad_row"
    name, kind = table.columns[table.text]
    value = row.values.get(name)
    if value is None:
        return "null_value"
    if isinstance(value, bytes) and kind != "uuid":
        return "bad_value"
    if isinstance(value, str) and not value.replace("\ufdd0", "").strip():
        return "empty_prompt"
    return None


def check(
    table: Table, plan: Plan, rows: list[Found], routes: dict[tuple[str, int], str], folder: Path
) -> None:
    """Compare the output with the rows of the simple reader."""
    results, errors = output(folder / "results"), output(folder / "errors")
    schemas = {str(pq.read_schema(path)) for path in (folder / "results").glob("*.parquet")}
    assert len(schemas) <= 1, "parts have different columns"
    assert {row["code"] for row in errors} <= set(FailureCode)
    got = {row["id"]: row for row in [*results, *errors]}
    assert len(got) == len(results) + len(errors), "an id names two rows"
    numbers = {shard.url: shard.number for shard in plan.survey.shards}
    expected = {
        as_text(row.values[table.key[0]], table.key[1])
        if table.id and row.values is not None
        else f"{numbers[row.path]:05d}-{row.number:010d}": row
        for row in rows
    }
    assert got.keys() == expected.keys()
    for key, row in expected.items():
        check_row(table, row, got[key], routes.get((row.path, row.number), "all"))


def check_row(table: Table, row: Found, got: dict[str, Any], route: str) -> None:
    """One row of the simple reader and the row of the output that has its id."""
    values = row.values or {}
    name, kind = table.columns[table.text]
    assert got.get("code") == fate(table, row), (row, got)
    assert got["route"] == route, (row, got)
    if "code" in got:
        assert (got["shard"], got["row_number"]) == (row.path, row.number)
        assert (got["row"] is None) == (row.values is None)
    else:
        kind = dict(table.files[row.file].kinds).get(table.text, kind)
        assert f"Say: {as_shown(values[name], kind)}" in got["output"], (row, got)
    for place, new in table.keep:
        name, kind = table.columns[place]
        kind = dict(table.files[row.file].kinds).get(place, kind)
        value = values.get(name)
        if kind == FOLDER and value is not None:
            assert str(got[new]) == value
        else:
            assert same(value, got[new], kind), (name, value, got[new])


def routes_of(table: Table, rows: list[Found]) -> dict[tuple[str, int], str]:
    """The route of each row; none in a job without routes."""
    if table.when is None:
        return {}
    place, when = table.when
    name, kind = table.columns[place]
    values = [None if row.values is None else row.values.get(name) for row in rows]
    taken = matches(when, quoted(name), kind, values)
    return {
        (row.path, row.number): "first" if take and row.values is not None else "rest"
        for row, take in zip(rows, taken, strict=True)
    }


def by_id(rows: list[dict[str, Any]]) -> str:
    return json.dumps(sorted(rows, key=lambda row: str(row["id"])), default=str)


def try_table(table: Table, folder: Path, model: str, tokenizer: Tokenizer) -> None:
    """The whole life of one table."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    paths = write(table, folder / "in")
    found = read(paths, table.format, folder / "in")
    assert len(found) == table.total, "the simple reader is wrong"
    spec = spec_of(table, folder, paths, model)
    jsonl.SAMPLED_ROWS, schemas.LOOKED_AT = table.looked_at, min(table.looked_at, 32)
    plan = plan_of(spec)
    run = Run(plan, tokenizer)
    harmed, harm = table.harm
    if harm == "gone":
        paths[harmed].unlink()
    elif harm == "replaced":
        paths[harmed].write_bytes(paths[harmed].read_bytes() * 2)
    run.commit(run.units, flaky=table.flaky)
    if table.flaky:
        run.retry()
    rows = [row._replace(values=None) if row.file == harmed else row for row in found]
    check(table, plan, rows, routes_of(table, found), folder / "out")
    if before := output(folder / "out" / "errors"):
        run.lose_errors()
        run.settle()
        assert by_id(output(folder / "out" / "errors")) == by_id(before)
    if not harm:
        again = plan_of(spec)
        assert again.fingerprint().digest == plan.fingerprint().digest
        assert again.units() == run.units
        assert again.survey.keep_schema == plan.survey.keep_schema


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not LONG,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=tables())
def test_every_row_of_a_table_comes_out_once_with_its_values(
    table: Table, tmp_path: Path, model: str, tokenizer: Tokenizer, looked_at: None
) -> None:
    """Names, types, nulls, files that differ, formats, routes, ids and kept columns, by chance."""
    try_table(table, tmp_path / "job", model, tokenizer)
