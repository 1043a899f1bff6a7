"""Reading with sort keys: what one task reads, and a unit that kills whoever reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemma_batch.reading import sort_keys
from gemma_batch.reading.prepare import make_renderer
from gemma_batch.reading.sort_keys import KEY, Sorting, chunks, read_chunk
from gemma_batch.units.bundle import unpack_shards
from gemma_batch.units.unit import Shard
from tests.driver.test_sorting import Open, plan_for, unit


def test_a_unit_that_kills_its_readers_is_given_up(tmp_path: Path, model: str) -> None:
    """Its rows fail where they are, those around it are copied (promise 3)."""
    plan = plan_for(tmp_path, model)
    units = plan.units()
    job = plan.job(plan.routes[0])
    sorting = Sorting(job=job, types=None, skip=0, folder="_run/sorted")
    (chunk, *_) = chunks(plan.survey.shards, units)
    log = Open(chunk.units[1].path)
    table = read_chunk(sorting, make_renderer(job), chunk, log)
    assert not log.open
    dead = [row for row in table.to_pylist() if row["code"] == "shard_unreadable"]
    assert [row["row"] for row in dead] == chunk.units[1].numbers
    assert all("every process that read rows" in row["message"] for row in dead)
    assert table.num_rows == sum(one.expected for one in chunk.units)
    assert {row[KEY] for row in dead} == {""}


def test_chunks_hold_neighbours_of_one_shard_or_small_shards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the limits of one task, in order, each unit once."""
    monkeypatch.setattr(sort_keys, "CHUNK_ROWS", 100)
    shards = [Shard(number=i, url=f"{i}", size=1, etag="e", format="csv") for i in range(4)]
    heavy = unit(1, 50, 1, sort_keys.CHUNK_BYTES)
    bundles = [replace(unit(n, 0, 2), members=(2,)) for n in (2, 3)]
    units = [unit(0, 0, 60), unit(0, 60, 40), unit(0, 100, 1), unit(1, 0, 50), heavy, *bundles]
    found = chunks(shards, units)
    assert [len(chunk.units) for chunk in found] == [2, 1, 1, 1, 2]
    assert [one for chunk in found for one in chunk.units] == units
    carried = [sorted(unpack_shards(chunk.shards)) for chunk in found]
    assert carried == [[0], [0], [1], [1], [2, 3]]
