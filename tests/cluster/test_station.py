"""A worker on a node that lacks the job's paths starts no engine, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gemma_batch.cluster import reach, station
from gemma_batch.cluster.relay import Relay
from gemma_batch.cluster.station import Station
from gemma_batch.engines.base import EngineConfig
from gemma_batch.errors import StorageError
from gemma_batch.spec import Prompt
from gemma_batch.storage import landmarks
from gemma_batch.storage.landmarks import Landmarks, put_stamp
from gemma_batch.units.route_job import RouteJob
from gemma_batch.units.row_policy import RowPolicy


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RouteJob:
    """A job with a local output, whose stamp a network file system shows at once."""
    monkeypatch.setattr(landmarks, "CACHE_SECONDS", 0.0)
    # Ray does not run here: no other node has room for the worker.
    monkeypatch.setattr(station, "nodes_with_room", lambda gpus: [])
    output = str(tmp_path / "out")
    return RouteJob(
        output=output,
        route="all",
        model="-",
        files=None,
        prompt=Prompt(user="x"),
        id_column=None,
        columns=(),
        keep_schema=pa.schema([]),
        max_model_len=64,
        vocab=64,
        sampling={"max_tokens": 1},
        engine=EngineConfig(
            engine="echo", model="-", max_model_len=64, max_num_seqs=1, max_num_batched_tokens=64
        ),
        policy=RowPolicy(),
        in_flight=1,
        landmarks=Landmarks(output=output, stamp=put_stamp(output)),
    )


def test_no_engine_on_a_node_without_the_paths(job: RouteJob, tmp_path: Path) -> None:
    """The cause names the path; when the disk is there after all, the engine starts."""
    made: list[Callable[[], None]] = []

    def make(on_ready: Callable[[], None]) -> Any:
        made.append(on_ready)

    (tmp_path / "out").rename(tmp_path / "elsewhere")
    worker = Station(job, "w", Relay(None, "w"), make)
    worker.open(alone=True)
    assert not made
    assert f"does not share output.path '{tmp_path}/out'" in str(worker.unfit)
    worker._again = 0.0  # the pause is over
    worker.try_again()
    assert not made
    assert worker.unfit is not None
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    worker._again = 0.0
    worker.try_again()
    assert len(made) == 1
    assert worker.unfit is None


def test_nothing_is_put_into_an_output_that_is_not_the_drivers(job: RouteJob) -> None:
    """A disk that goes away before the commit, and a run that another start has taken over."""
    reach.require_output(job.landmarks)
    put_stamp(job.output)
    for lost in (job.landmarks, replace(job.landmarks, output="/none")):
        with pytest.raises(
            StorageError, match=r"^node [\d.]+ does not share output\.path .* s3://"
        ):
            reach.require_output(lost)
        with pytest.raises(StorageError, match="does not share"):
            reach.require(lost)
    reach.require(Landmarks())
