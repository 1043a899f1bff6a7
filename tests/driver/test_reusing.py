"""Answers of trials in the run that follows: each row once, and never paid for twice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.committing.increments import settle_increment
from gemma_batch.committing.ledger import Receipt
from gemma_batch.committing.leftovers import leftovers
from gemma_batch.committing.manifest import Manifest, create_manifest, load_manifest
from gemma_batch.committing.taken import FOLDER, planned
from gemma_batch.driver.reusing import answers_of_trials, checked_known, rows_to_ask
from gemma_batch.driver.sorting import Stage
from gemma_batch.errors import OutputError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan, rows_by_route
from gemma_batch.planning.sample import sample_routes
from gemma_batch.planning.settling import settled
from gemma_batch.reporting.report import make_report
from gemma_batch.rows import Completion
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import parse_part_name
from gemma_batch.units.known import RowPlace
from gemma_batch.units.unit import Unit, make_mask
from tests.driver.test_sorting import Silent, in_memory
from tests.driver.trials import Answer, commit_all, results, retried, text_answer, trial

FILES, ROWS = ("a.jsonl", "b.jsonl", "c.jsonl"), 9
SAMPLE = {"a.jsonl": {0, 3, 8}, "c.jsonl": {4, 5}}


class Said(Silent):
    """A display that keeps its sentences."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def write_file(folder: Path, name: str, rows: int = ROWS, **more: Any) -> None:
    lines = [
        json.dumps({"key": f"{name[0]}{i}", "text": f"the fox {name[0]} {i}", "n": i, **more})
        for i in range(rows)
    ]
    (folder / name).write_text("\n".join(lines) + "\n")


def plan_for(folder: Path, tiny: str, **changes: Any) -> Plan:
    """The plan of a job on three files of nine rows."""
    inputs = folder / "in"
    if not inputs.exists():
        inputs.mkdir()
        for name in FILES:
            write_file(inputs, name)
    data = {
        "input": {"path": f"{inputs}/*.jsonl"},
        "prompt": {"user": "Say: {{ text }}"},
        "model": tiny,
        "sampling": {"max_tokens": 8},
        "output": {"path": str(folder / "out"), "keep": ["n", "key"]},
        "resources": {"engine": "echo", "max_model_len": 256},
        "policy": {"unit_rows": 4},
        **changes,
    }
    return make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None))


@dataclass
class Done:
    """A run at its end."""

    store: Store
    manifest: Manifest
    said: list[str]
    receipts: list[Receipt]
    asked: dict[str, int] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, Any]:
        """The answer of each row, by the row's key in the input; each row is there once."""
        rows = results(self.store)
        found = {row["key"]: row["output"] for row in rows}
        assert len(found) == len(rows), "a row is there twice"
        return found


def run(plan: Plan, *, answer: Answer = text_answer, exchange: Any = None) -> Done:
    """Open a run as `open_run` does, and answer and commit its units."""
    plan, said = replace(plan, survey=settled(plan.survey, plan.spec)), Said()
    store, units = open_store(plan.spec.output.path), plan.units()
    known = answers_of_trials(store, plan, units, said, 0)
    asked = rows_to_ask(rows_by_route(units), known)
    staged: list[Any] = []
    if exchange is not None:
        stage = Stage(plan, sample_routes(plan), Hardware(gpu=None), exchange, said)
        units, staged, _ = stage.routes(units)
    manifest = create_manifest(
        store,
        name="run",
        fingerprint=plan.fingerprint(),
        shards=plan.survey.shards,
        units=units,
        spec=plan.spec.to_dict(),
        facts=known,
        staged=staged,
    )
    receipts = commit_all(
        store,
        plan,
        manifest.by_number,
        manifest.units(store),
        manifest.run,
        "run",
        known=checked_known(store, manifest),
        answer=answer,
    )
    return Done(store, manifest, said.lines, receipts, asked)


def split(outputs: dict[str, Any], who: str = "trial") -> set[str]:
    """The keys of the rows whose answer is of `who`; every other answer is of the run."""
    mine = {key for key, output in outputs.items() if output.startswith(f"{who} ")}
    assert all(o.startswith("run ") for key, o in outputs.items() if key not in mine)
    return mine


KEYS = {f"{name[0]}{i}" for name in FILES for i in range(ROWS)}
TAKEN = {f"{name[0]}{i}" for name, numbers in SAMPLE.items() for i in numbers}
# The same rows in units of a shard, of several small shards, on two routes, and as one unit each.
SHAPES: dict[str, dict[str, Any]] = {
    "runs of a shard": {},
    "several shards in a unit": {"policy": {"unit_rows": 500}},
    "a unit for each row": {"policy": {"unit_rows": 1}},
    "ids of the input": {"id": True},
    "two routes": {"when": "n % 2 = 0"},
}


def changed(shape: dict[str, Any], folder: Path, model: str) -> dict[str, Any]:
    if "id" in shape:
        return {"input": {"path": f"{folder}/in/*.jsonl", "id": "key"}}
    if "when" in shape:
        routes = [{"name": "even", "when": shape["when"], "model": model}]
        return {"model": None, "routes": [*routes, {"name": "odd", "model": model}]}
    return shape


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_a_trial_answered_is_not_asked_again(
    tmp_path: Path, model: str, shape: dict[str, Any]
) -> None:
    """Each row once, in the input's order; the receipts count the trial's answers as reused."""
    plan = plan_for(tmp_path, model)
    plan = plan_for(tmp_path, model, **changed(shape, tmp_path, model))
    trial(plan, "trial", SAMPLE)
    done = run(plan)
    outputs = done.outputs
    assert outputs.keys() == KEYS
    assert split(outputs) == TAKEN
    assert sum(receipt.get("reused", 0) for receipt in done.receipts) == len(TAKEN)
    assert sum(receipt["rows"] for receipt in done.receipts) == len(KEYS)
    assert sum(done.asked.values()) == len(KEYS) - len(TAKEN)
    assert done.said == ["5 rows answered by the trial 'trial' before: not asked again"]
    rows = results(done.store)
    for receipt in done.receipts:
        mine = pq.read_table(pa.BufferReader(done.store.read(f"results/{receipt['part']}")))
        places = [(row["key"][0], row["n"]) for row in mine.to_pylist()]
        assert places == sorted(places), "rows of a unit stand in the input's order"
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            assert receipt[name] == sum(mine[name].to_pylist())
        known = [r for r in mine.to_pylist() if not r["output"].startswith("run ")]
        assert receipt.get("reused", 0) == len(known)
        if known:
            tokens = receipt["reused_tokens"]["prompt_tokens"]
            assert tokens == sum(row["prompt_tokens"] for row in known)
    numbers = {name[0]: i for i, name in enumerate(FILES)}
    for row in rows:
        place = f"{numbers[row['key'][0]]:05d}-{row['n']:010d}"
        assert row["id"] == (row["key"] if "id" in shape else place)
        assert row["route"] == (("even", "odd")[row["n"] % 2] if "when" in shape else "all")


def test_rows_of_a_sorted_copy_are_known_by_their_place_in_the_input(
    tmp_path: Path, model: str
) -> None:
    """The rows of a run may stand elsewhere than those of the trial."""
    resources = {"engine": "echo", "max_model_len": 256, "sort": "always"}
    plan = plan_for(tmp_path, model, resources=resources, prompt={"user": "{{ text[::-1] }}"})
    trial(plan, "trial", SAMPLE)
    done = run(plan, exchange=in_memory(tmp_path))
    assert done.manifest.staged, "the rows were sorted"
    assert done.outputs.keys() == KEYS
    assert split(done.outputs) == TAKEN


def test_a_trial_on_sorted_copies_is_taken_too(tmp_path: Path, model: str) -> None:
    """The copies carry the places of the rows."""
    resources = {"engine": "echo", "max_model_len": 256, "sort": "always"}
    plan = plan_for(tmp_path, model, resources=resources, prompt={"user": "{{ text[::-1] }}"})
    there = replace(
        plan,
        spec=plan.spec.model_copy(
            update={"output": plan.spec.output.model_copy(update={"path": f"{tmp_path}/first"})}
        ),
    )
    run(there, exchange=in_memory(tmp_path), answer=lambda _, n: text_answer("trial", n))
    home = tmp_path / "out" / FOLDER
    home.mkdir(parents=True)
    os.rename(tmp_path / "first", home / "trial")
    assert split(run(plan).outputs) == KEYS


def test_a_run_whose_rows_are_all_known_asks_nothing(tmp_path: Path, model: str) -> None:
    """Every unit is committed without a request."""
    plan = plan_for(tmp_path, model)
    trial(plan, "trial", {name: set(range(ROWS)) for name in FILES})

    def never(who: str, number: int) -> Completion:
        raise AssertionError("a request went to the engine")

    done = run(plan, answer=never)
    assert split(done.outputs) == KEYS
    keys = {parse_part_name(r["part"]): r for r in done.receipts}
    report = make_report(
        done.manifest, "-", len(done.receipts), {key: r for key, r in keys.items() if key}
    )
    assert (report.complete, report.answered, report.reused) == (True, len(KEYS), len(KEYS))


def test_files_that_came_or_changed(tmp_path: Path, model: str) -> None:
    """A new first file gives all others new numbers; rows of a changed file are asked again."""
    plan = plan_for(tmp_path, model)
    trial(plan, "trial", {**SAMPLE, "b.jsonl": {1}})
    write_file(tmp_path / "in", "0.jsonl")
    write_file(tmp_path / "in", "c.jsonl", more="changed")
    (tmp_path / "in" / "b.jsonl").unlink()
    done = run(plan_for(tmp_path, model))
    assert split(done.outputs) == {"a0", "a3", "a8"}
    assert {row["id"] for row in results(done.store) if row["key"][0] == "a"} == {
        f"00001-{i:010d}" for i in range(ROWS)
    }
    assert done.said == [
        "3 rows answered by the trial 'trial' before: not asked again; 2 answers of the trial "
        "'trial' not taken, as their input files have changed"
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sampling": {"max_tokens": 9}}, "sampling.max_tokens was 8, now 9"),
        ({"prompt": {"user": "Tell: {{ text }}"}}, "prompt.user was 'Say: {{ text }}', now"),
        ({"answer": {"choice": ["fox", "dog"]}}, "answer was None, now"),
        ({"output": {"path": "-", "keep": ["n", "key", "text"]}}, "output.keep was ['n', 'key']"),
    ],
)
def test_answers_of_another_configuration_are_never_taken(
    tmp_path: Path, model: str, changes: dict[str, Any], why: str
) -> None:
    """Promise 5; the first difference is said."""
    trial(plan_for(tmp_path, model), "trial", SAMPLE)
    if "output" in changes:
        changes = {"output": {**changes["output"], "path": str(tmp_path / "out")}}
    answer = (lambda w, n: Completion(["fox"], ["stop"], 1, 1)) if "answer" in changes else None
    done = run(plan_for(tmp_path, model, **changes), answer=answer or text_answer)
    assert not any(output.startswith("trial") for output in done.outputs.values())
    assert done.outputs.keys() == KEYS
    assert not done.manifest.facts
    (line,) = done.said
    assert line.startswith(f"no answers are taken from the trial 'trial' ({why}"), line


def test_of_two_trials_the_newest_counts(tmp_path: Path, model: str) -> None:
    """A row that both know is there once, whatever the names of the trials."""
    plan = plan_for(tmp_path, model)
    trial(plan, "x", {"a.jsonl": {0, 1}}, created="2026-03-01T00:00:00+00:00")
    trial(plan, "y", {"a.jsonl": {1, 2}}, created="2026-02-01T00:00:00+00:00")
    done = run(plan)
    asked = {key: output for key, output in done.outputs.items() if not output.startswith("run ")}
    assert asked == {"a0": "x 0", "a1": "x 1", "a2": "y 2"}
    assert done.said == ["3 rows answered by 2 trials before: not asked again"]


@pytest.mark.parametrize(("rows", "fail"), [(4, {3, 4, 8}), (500, {3, 8, 2 * ROWS + 4})])
def test_rows_that_failed_are_asked_again_until_a_retry_answers(
    tmp_path: Path, model: str, rows: int, fail: set[int]
) -> None:
    """The parts of a trial hold its answers only, and a retry of the trial adds some.

    Small units, and one of all files, whose rows have numbers of their own there.
    """
    plan = plan_for(tmp_path, model, policy={"unit_rows": rows})
    store = trial(plan, "trial", SAMPLE, fail=fail)
    assert {row["key"] for row in results(store)} == {"a0", "c5"}
    manifest = load_manifest(store)
    assert manifest is not None
    retried(plan, store, manifest, "trial")
    trial(plan, "second", {"b.jsonl": {0, 1, 2}}, fail={1, ROWS + 1})
    done = run(plan)
    outputs = done.outputs
    second = {key for key, output in outputs.items() if output.startswith("second")}
    assert second == {"b0", "b2"}
    first = {key for key, output in outputs.items() if output.startswith("trial")}
    assert first == TAKEN
    assert outputs.keys() == KEYS


def test_kept_columns_have_the_types_of_the_run(tmp_path: Path, model: str) -> None:
    """The plan of a trial sees whole numbers; a later file has a fraction, which counts for all."""
    (tmp_path / "in").mkdir()
    rows = {f"f{i:02d}": i if i < 39 else i + 0.5 for i in range(40)}
    for key, n in rows.items():
        line = json.dumps({"key": key, "text": f"fox {n}", "n": n})
        (tmp_path / "in" / f"{key}.jsonl").write_text(line + "\n")
    plan = plan_for(tmp_path, model)
    store = trial(plan, "trial", {"f00.jsonl": {0}, "f25.jsonl": {0}, "f39.jsonl": {0}})
    assert {row["key"]: row["n"] for row in results(store)} == {"f00": 0, "f25": 25}, (
        "the last one did not fit the type that the trial guessed"
    )
    done = run(plan)
    assert split(done.outputs) == {"f00", "f25"}
    kinds = {
        pq.read_schema(pa.BufferReader(done.store.read(key))).field("n").type
        for key in done.store.list("results")
    }
    assert kinds == {pa.float64()}
    assert {row["key"]: row["n"] for row in results(done.store)} == rows


def several(who: str, number: int) -> Completion:
    return Completion([f"{who} {number}", f"{who} again"], ["stop", "length"], 5, 4)


def typed(who: str, number: int) -> Completion:
    text = json.dumps({"who": who, "n": number, "more": [{"x": None}, {"x": 1.5}]})
    return Completion([text], ["stop"], 5, 4)


def sure(who: str, number: int) -> Completion:
    text = "fox" if who == "trial" else "dog"
    return Completion([text], ["stop"], 5, 1, token_logprobs=[[(text, -0.1 * number)]])


SCHEMA = {
    "type": "object",
    "properties": {
        "who": {"type": "string"},
        "n": {"type": "integer"},
        "more": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"x": {"type": ["number", "null"]}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["who", "n", "more"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"sampling": {"max_tokens": 8, "n": 2, "temperature": 0.5}}, several),
        ({"answer": {"schema": SCHEMA}}, typed),
        ({"answer": {"choice": ["fox", "dog"], "confidence": True}}, sure),
        ({"output": {"path": "-", "keep": [{"renamed": "n"}, "key"]}}, text_answer),
    ],
    ids=["samples", "schema", "confidence", "renamed"],
)
def test_answers_stay_as_they_were(
    tmp_path: Path, model: str, changes: dict[str, Any], answer: Answer
) -> None:
    """Typed values, samples and details of an answer are those of the trial, to the bit."""
    if "output" in changes:
        changes = {"output": {**changes["output"], "path": str(tmp_path / "out")}}
    plan = plan_for(tmp_path, model, **changes)
    store = trial(plan, "trial", SAMPLE, answer=answer)
    done = run(plan, answer=answer)

    def rows(where: Store) -> dict[str, Any]:
        return {row["key"]: row for row in results(where)}

    known, every = rows(store), rows(done.store)
    assert known.keys() == TAKEN
    assert every.keys() == KEYS
    assert {key: every[key] for key in TAKEN} == known
    fresh = rows(done.store)["b0"]
    assert fresh != {**known["a0"], "key": "b0", "id": fresh["id"]}, "and the run's are its own"
    schemas = {
        pq.read_schema(pa.BufferReader(where.read(key)))
        for where in (store, done.store)
        for key in where.list("results")
    }
    assert len(schemas) == 1


def spoil_run(store: Store) -> None:
    data = json.loads(store.read("_run/manifest.json"))
    store.put("_run/manifest.json", json.dumps({**data, "run": "another"}).encode())


def spoil_part(store: Store) -> None:
    store.put(store.list("results")[0], b"no part")


def spoil_manifest(store: Store) -> None:
    store.put("_run/manifest.json", b"{")


def spoil_units(store: Store) -> None:
    store.delete(json.loads(store.read("_run/manifest.json"))["units"])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_run, "is a part of another run"),
        (spoil_part, "has no readable receipt"),
        (spoil_manifest, "is not valid JSON"),
        (spoil_units, "is missing from the output"),
    ],
)
def test_a_spoilt_trial_is_left_out_and_named(
    tmp_path: Path, model: str, spoil: Any, why: str
) -> None:
    """Its rows are asked again; a good trial beside it is taken."""
    plan = plan_for(tmp_path, model)
    spoil(trial(plan, "spoilt", SAMPLE))
    trial(plan, "trial", {"b.jsonl": {7}})
    done = run(plan)
    assert split(done.outputs) == {"b7"}
    first, second = done.said
    assert first.startswith("no answers are taken from the trial 'spoilt' (")
    assert why in first
    assert second == "1 row answered by the trial 'trial' before: not asked again"


def test_the_file_of_known_answers_belongs_to_the_manifest(tmp_path: Path, model: str) -> None:
    """A start that dies leaves a file that the next start uses or removes; a lost one is named."""
    plan = plan_for(tmp_path, model)
    trial(plan, "trial", SAMPLE)
    store = open_store(plan.spec.output.path)
    left = answers_of_trials(store, plan, plan.units(), Said(), 0)  # and now the start dies
    trial(plan, "later", {"b.jsonl": {0}})
    done = run(plan)
    (key,) = checked_known(store, done.manifest)
    assert key != left["known"]["key"]
    store.create("_run/known-i1-0123456789abcdef.parquet", b"of a start that may still go on")
    found = [one for one in leftovers(store, done.manifest) if one.kind == "known answers"]
    assert [one.key for one in found] == [left["known"]["key"]]
    again = answers_of_trials(store, plan, plan.units(), Said(), 0)
    assert again["known"]["key"] == key, "the same answers have the same name"
    store.delete(key)
    with pytest.raises(OutputError, match=r"known-.* is missing from the output although"):
        checked_known(store, done.manifest)


def test_a_trial_of_a_growing_input_is_taken_into_its_increment(tmp_path: Path, model: str) -> None:
    """Each opening takes the answers to its own files; readers find those of all openings."""
    grows = {"input": {"path": f"{tmp_path}/in/*.jsonl", "grow": True}}
    plan_for(tmp_path, model)  # writes the files
    plan = plan_for(tmp_path, model, **grows)
    trial(plan, "first", SAMPLE)
    done = run(plan)
    write_file(tmp_path / "in", "d.jsonl")
    trial(plan_for(tmp_path, model, **grows), "second", {"a.jsonl": {1}, "d.jsonl": {2, 7}})
    new = make_plan(plan.spec, known=done.manifest.shards).placed(Hardware(gpu=None))
    said, units = Said(), new.units()
    facts = answers_of_trials(done.store, new, units, said, 1)
    assert facts["known"]["key"].startswith("_run/known-i1-")
    assert said.lines == ["2 rows answered by the trial 'second' before: not asked again"]
    increment = settle_increment(
        done.store,
        done.manifest.run,
        1,
        created="2026-01-01T00:00:00+00:00",
        shards=new.survey.shards,
        units=units,
        facts=facts,
    )
    grown = done.manifest.with_increments([increment])
    keys = checked_known(done.store, grown)
    assert len(keys) == 2
    commit_all(done.store, new, grown.by_number, units, grown.run, "run", known=keys)
    assert {key: o for key, o in done.outputs.items() if o.startswith("second")} == {
        "d2": "second 2",
        "d7": "second 7",
    }
    assert {key for key, o in done.outputs.items() if o.startswith("first")} == TAKEN
    assert not [one for one in leftovers(done.store, grown) if one.kind == "known answers"]


def test_an_output_in_an_object_store(tmp_path: Path, model: str, s3: Any) -> None:
    """Trials are found there by the same keys."""
    output = {"path": f"{s3.bucket('reuse')}/out/", "keep": ["n", "key"]}
    plan = plan_for(tmp_path, model, output=output)
    trial(plan, "trial", SAMPLE)
    assert split(run(plan).outputs) == TAKEN


def test_without_trials_nothing_is_put_or_said(tmp_path: Path, model: str) -> None:
    """Neither is for a trial that has answered nothing yet."""
    plan = plan_for(tmp_path, model)
    trial(plan, "trial", {"a.jsonl": {1}}, fail={1})
    done = run(plan)
    assert (done.said, done.manifest.facts) == ([], {})
    assert not [key for key in done.store.list("_run") if key.startswith("_run/known")]
    assert all("reused" not in receipt for receipt in done.receipts)


@st.composite
def some_units(draw: st.DrawFn) -> list[Unit]:
    """Units with and without masks and members."""
    units, shard = [], 0
    for _ in range(draw(st.integers(1, 4))):
        members = draw(st.none() | st.lists(st.integers(0, 5), min_size=1, max_size=4))
        first = 0 if members is not None else draw(st.integers(0, 6))
        rows = sum(members) if members is not None else draw(st.integers(1, 20))
        picked = draw(st.none() | st.sets(st.integers(first, first + rows)))
        mask = None if picked is None else make_mask(first, rows, picked - {first + rows})
        unit = Unit(
            shard=shard,
            first_row=first,
            rows=rows,
            mark=0,
            bytes=1,
            route=draw(st.sampled_from("xy")),
            expected=0,
            mask=mask,
            members=None if members is None else tuple(members),
        )
        units.append(unit)
        shard += len(unit.shards)
    return units


@given(some_units(), st.data())
def test_known_rows_are_those_of_the_units(units: Sequence[Unit], data: st.DataObject) -> None:
    """By the bits of masks, as `Unit.places` tells the rows."""
    some = st.builds(RowPlace, st.sampled_from("xy"), st.integers(0, 15), st.integers(0, 26))
    places = set(data.draw(st.lists(some, max_size=40)))
    mine = {
        RowPlace(unit.route, place.shard, number)
        for unit in units
        for place in unit.places
        for number in place.numbers
    }
    found = list(planned(places, units))
    assert set(found) == places & mine
    assert len(found) == len(set(found))
