"""The commit: the part's existence settles every row of its unit, once, whoever writes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.commit import commit_unit, committed_receipt
from gemma_batch.committing.ledger import Ledger
from gemma_batch.engines.base import EngineConfig
from gemma_batch.rows import Completion, Failure, Outcome, Row
from gemma_batch.spec import Prompt
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.listing import stat
from gemma_batch.units.known import Known
from gemma_batch.units.payload import Prepared
from gemma_batch.units.raw_rows import pack, raw_rows
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.row_policy import RowPolicy
from gemma_batch.units.unit import Shard, Unit

KEEP = pa.schema([("n", pa.int64())])


def job(**sampling: Any) -> RouteJob:
    return RouteJob(
        output="-",
        route="all",
        model="m",
        files=None,
        prompt=Prompt(user="{{ doc }}"),
        id_column="id",
        columns=("id", "doc", "n"),
        keep_schema=KEEP,
        max_model_len=64,
        vocab=600,
        sampling={"max_tokens": 4, **sampling},
        engine=EngineConfig(
            engine="echo", model="m", max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64
        ),
        policy=RowPolicy(),
        in_flight=8,
    )


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """A unit of three rows of a JSON lines shard."""
    path = tmp_path / "in.jsonl"
    rows = [Row(i, {"id": f"r{i}", "doc": "x", "n": i}) for i in range(3)]
    path.write_text("".join(json.dumps(row.values) + "\n" for row in rows))
    return Prepared(
        unit=Unit(shard=0, first_row=0, rows=3, mark=0, bytes=9, route="all", expected=3),
        numbers=[0, 1, 2],
        ids=["r0", "r1", "r2"],
        keep=pa.table({"n": [0, 1, 2]}),
        raw=pack(raw_rows(rows, str(path))),
        requests=[],
        failures={},
    )


def shard_in(folder: Path) -> Shard:
    """The shard of the unit `prepared`."""
    file = stat(str(folder / "in.jsonl"))
    return Shard(number=0, url=file.url, size=file.size, etag=file.etag, format="jsonl")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def answer(text: str, *more: str) -> Completion:
    outputs = [text, *more]
    return Completion(outputs, ["stop"] * len(outputs), 5, 2 * len(outputs))


def table(store: Store, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(store.read(key))).to_pylist()
    return rows


OUTCOMES: dict[int, Outcome] = {
    0: answer("a"),
    1: Failure("deadline", "late", 2, 9.5),
    2: answer("c"),
}


def test_answers_go_to_results_and_failures_to_errors(store: Store, prepared: Prepared) -> None:
    """Kept values stay with their row; the failed row is there whole, to be run again."""
    receipt = commit_unit(store, job(), prepared, OUTCOMES, {"worker": "w"})
    name = "part-00000-0000000000.parquet"
    results, errors = table(store, f"results/{name}"), table(store, f"errors/{name}")
    assert [(row["id"], row["n"], row["output"]) for row in results] == [
        ("r0", 0, "a"),
        ("r2", 2, "c"),
    ]
    ((error,)) = errors
    assert (error["id"], error["n"], error["code"], error["attempts"]) == ("r1", 1, "deadline", 2)
    assert json.loads(error["row"]) == {"id": "r1", "doc": "x", "n": 1}
    assert (error["row_number"], error["message"]) == (1, "late")
    assert (receipt["rows"], receipt["answered"], receipt["failures"]) == (3, 2, {"deadline": 1})
    assert committed_receipt(store, prepared.unit) == receipt


def test_whoever_comes_second_changes_nothing(store: Store, prepared: Prepared) -> None:
    """Two workers with different outcomes: the first one's stand, in results and in errors."""
    first = commit_unit(store, job(), prepared, OUTCOMES, {})
    before = {key: store.read(key) for key in store.list()}
    other: dict[int, Outcome] = {0: Failure("deadline", "x"), 1: answer("b"), 2: answer("z")}
    second = commit_unit(store, job(), prepared, other, {})
    assert second == {**first, "redundant": True}
    assert {key: store.read(key) for key in store.list()} == before


def test_several_samples_are_lists(store: Store, prepared: Prepared) -> None:
    """n > 1: every sample is kept."""
    outcomes: dict[int, Outcome] = {n: answer("a", "b") for n in range(3)}
    commit_unit(store, job(n=2), prepared, outcomes, {})
    (row, *_) = table(store, "results/part-00000-0000000000.parquet")
    assert (row["output"], row["finish_reason"]) == (["a", "b"], ["stop", "stop"])
    assert row["completion_tokens"] == 4


def test_a_unit_without_a_single_answer_is_committed_too(store: Store, prepared: Prepared) -> None:
    """Otherwise it would be run again for ever."""
    outcomes: dict[int, Outcome] = {n: Failure("bad_row", "x") for n in range(3)}
    commit_unit(store, job(), prepared, outcomes, {})
    assert table(store, "results/part-00000-0000000000.parquet") == []
    assert len(table(store, "errors/part-00000-0000000000.parquet")) == 3
    assert Ledger(store).remaining([prepared.unit]) == []


def test_a_row_without_an_outcome_is_never_committed(store: Store, prepared: Prepared) -> None:
    """A defect of ours must not become a lost row."""
    with pytest.raises(AssertionError, match="have no outcome"):
        commit_unit(store, job(), prepared, {0: answer("a")}, {})
    assert store.list("results") == []


def test_a_row_is_settled_by_one_answer_and_never_by_two(store: Store, prepared: Prepared) -> None:
    """A known answer beside an outcome, and neither of the two, are defects of ours."""
    first = commit_unit(store, job(), prepared, OUTCOMES, {})
    table = pq.read_table(pa.BufferReader(store.read(f"results/{first['part']}")))
    known = Known((0, 2), table.drop_columns(["n", "id"]))
    for numbers in ({1}, {0, 1}, set()):
        unit = replace(prepared.unit, first_row=10 + len(numbers))
        mixed = replace(prepared, unit=unit, known=known)
        outcomes = {number: OUTCOMES[number] for number in numbers}
        if numbers == {1}:
            assert commit_unit(store, job(), mixed, outcomes, {})["answered"] == 2
        else:
            with pytest.raises(AssertionError, match="1 have no outcome, or two"):
                commit_unit(store, job(), mixed, outcomes, {})


def test_the_part_of_a_step_is_kept_apart(store: Store, prepared: Prepared) -> None:
    """Steps before the last are committed below `_run/`, and no reader of results sees them."""
    draft = replace(prepared, unit=replace(prepared.unit, step="draft"))
    receipt = commit_unit(store, job(), draft, OUTCOMES, {})
    name = "part-00000-0000000000.parquet"
    assert store.list() == [f"_run/steps-errors/draft/{name}", f"_run/steps/draft/{name}"]
    assert Ledger(store, "draft").errors().keys() == {draft.unit.key}
    assert Ledger(store).errors() == {}
    assert committed_receipt(store, draft.unit) == receipt
    assert Ledger(store, "draft").remaining([draft.unit]) == []
    assert Ledger(store).remaining([prepared.unit]) == [prepared.unit]
    assert Ledger(store).committed() == {}
