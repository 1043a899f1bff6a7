"""Sorting without a cluster: a lost or doubled row never goes unseen (promise 1)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.driver.sorting import Exchange, Stage, begun_alike, check_complete
from gemma_batch.errors import GemmaBatchError, SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.sample import sample_routes
from gemma_batch.reading.prepare import make_renderer
from gemma_batch.reading.sort_keys import KEY, Chunk, Sorting, describe, read_chunk
from gemma_batch.reading.source import row_id, unit_rows
from gemma_batch.reporting.progress import Snapshot
from gemma_batch.spec import JobSpec
from gemma_batch.storage.listing import stat
from gemma_batch.storage.readers.staged import staged_file
from gemma_batch.units.unit import FIRST_STAGED, Shard, Unit, make_mask

ROWS, GROUPS, SHARDS = 1200, 30, 3
PREFIX = "the quick brown fox jumps over the lazy dog while five wizards box "


class Silent:
    def update(self, snapshot: Snapshot) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class Open:
    """A log that refuses the units it is told to."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.open = set(refused), list[str]()

    def begin(self, unit: str) -> bool:
        self.open.append(unit)
        return unit not in self.refused

    def end(self, unit: str) -> None:
        self.open.remove(unit)


def plan_for(folder: Path, model: str, **resources: Any) -> Plan:
    """Rows of 30 groups, at random, every 50th without a value."""
    chance = random.Random(5)
    (folder / "in").mkdir()
    for shard in range(SHARDS):
        rows = [
            {"group": f"{chance.randrange(GROUPS)} {PREFIX}", "text": f"{shard} {i}"}
            for i in range(ROWS // SHARDS)
        ]
        for row in rows[::50]:
            row["group"] = None  # type: ignore[assignment]
        pq.write_table(pa.Table.from_pylist(rows), folder / "in" / f"{shard}.parquet")
    spec = {
        "input": {"path": f"{folder}/in/*.parquet"},
        "prompt": {"user": "{{ group }} {{ text }}"},
        "model": model,
        "sampling": {"max_tokens": 8},
        "output": {"path": str(folder / "out")},
        "resources": {"max_model_len": 512, "device": "cpu", "sort": "always", **resources},
    }
    return make_plan(JobSpec.from_dict(spec)).placed(Hardware(gpu=None))


def in_memory(folder: Path, pieces: int = 4, lose: int = 0) -> Exchange:
    """An exchange in this process: all rows in one table, sorted, in `pieces` files."""

    def exchange(sorting: Sorting, work: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
        renderer = make_renderer(sorting.job)
        tables = [read_chunk(sorting, renderer, chunk, Open()) for chunk in work]
        table = pa.concat_tables(tables).sort_by(KEY)
        size = -(-table.num_rows // pieces)
        for i in reversed(range(pieces)):  # in no particular order
            piece = table.slice(i * size, size - (lose if i == 1 else 0))
            path = folder / f"piece-{i}.parquet"
            path.write_bytes(staged_file(piece.drop_columns([KEY])))
            yield describe(piece, stat(str(path)))

    return exchange


def staged(plan: Plan, exchange: Exchange) -> tuple[list[Unit], list[Shard], Any]:
    stage = Stage(plan, sample_routes(plan), Hardware(gpu=None), exchange, Silent())
    return stage.routes(plan.units())


def test_every_row_is_there_once_and_knows_its_place(tmp_path: Path, model: str) -> None:
    """The same ids as without sorting, neighbours share their group, and what failed still does."""
    plan = plan_for(tmp_path, model)
    units, shards, facts = staged(plan, in_memory(tmp_path))
    numbers = [shard.number for shard in shards]
    assert numbers == [FIRST_STAGED + i for i in range(4)], "the input keeps the numbers below"
    assert facts["all"]["took_seconds"] >= 0
    every = {shard.number: shard for shard in (*plan.survey.shards, *shards)}
    rows = [row for unit in units for row in unit_rows(every, unit, ["group", "text"])]
    before = [
        row_id(unit.shard, row, None)
        for unit in plan.units()
        for row in unit_rows(plan.survey.shards, unit, ["group", "text"])
    ]
    after = [row_id(99, row, None) for row in rows]
    assert after != before
    assert sorted(after) == sorted(before)
    groups = [(row.values or {})["group"] for row in rows]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    assert changes == GROUPS, "each group, and the rows without one, in one run"


def test_a_row_that_gets_lost_on_the_way_ends_the_start(tmp_path: Path, model: str) -> None:
    """Nothing is started on an incomplete copy (promise 1)."""
    plan = plan_for(tmp_path, model)
    with pytest.raises(GemmaBatchError, match=r"lost or doubled rows .* nothing was started"):
        staged(plan, in_memory(tmp_path, lose=1))


def test_only_what_is_worth_it_is_sorted(tmp_path: Path, model: str) -> None:
    """30 groups fit an engine's own window: left to the plan, and by `never`, nothing happens."""
    for sort in ("auto", "never"):
        folder = tmp_path / sort
        folder.mkdir()
        plan = plan_for(folder, model, sort=sort)
        units, shards, facts = staged(plan, in_memory(folder))
        assert (units, shards, facts) == (plan.units(), [], {})


def test_rows_that_cannot_be_copied_without_loss_are_not_sorted(tmp_path: Path, model: str) -> None:
    """Files that differ in a column's type: refused in one sentence, before anything."""
    plan = plan_for(tmp_path, model)
    assert plan.survey.uniform
    other = tmp_path / "in" / "9.parquet"
    values = pa.array(["x"], pa.large_string())
    pq.write_table(pa.table({"group": ["x"], "text": values}), other)
    mixed = make_plan(plan.spec).placed(Hardware(gpu=None))
    assert not mixed.survey.copyable
    with pytest.raises(SpecError, match=r"'always', but route 'all' cannot be sorted"):
        staged(mixed, in_memory(tmp_path))


def unit(shard: int, first: int, rows: int, weight: int = 10) -> Unit:
    return Unit(
        shard=shard, first_row=first, rows=rows, mark=0, bytes=weight, route="all", expected=rows
    )


def test_rows_are_counted_by_where_they_came_from() -> None:
    """Masks too; a row in the place of another is noticed."""
    masked = replace(unit(0, 10, 8), mask=make_mask(10, 8, [11, 17]), expected=2)
    units = [unit(0, 0, 5), masked, unit(1, 0, 3)]
    right = [{"origins": [(0, 4, 6), (1, 3, 3)]}, {"origins": [(0, 3, 4 + 11 + 17)]}]
    check_complete(right, units)
    for wrong in ((0, 3, 4 + 11 + 16), (0, 2, 4 + 11), (0, 4, 4 + 11 + 17)):
        with pytest.raises(GemmaBatchError, match="example number 0"):
            check_complete([right[0], {"origins": [wrong]}], units)


def test_what_all_prompts_begin_with_is_no_key() -> None:
    """A system prompt of any length leaves the key to what differs."""
    assert begun_alike(["system a", "system b", "system abc"]) == 7
    assert begun_alike(["same", "same"]) == 4
    assert begun_alike(["alone"]) == begun_alike([]) == 0
    assert begun_alike(["", "x"]) == 0
