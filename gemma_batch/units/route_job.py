"""RouteJob: one route as plain data, made by the driver for Ray CPU tasks and GPU actors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gemma_batch.engines.base import EngineConfig
from gemma_batch.spec import Prompt
from gemma_batch.storage.landmarks import Landmarks
from gemma_batch.storage.models import ModelFiles
from gemma_batch.units.asked import Asked
from gemma_batch.units.row_policy import Order, RowPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteJob:
    """One route, ready to run.

    `files` is the model as it was planned. `columns` are the input columns to read. `keep_schema`
    has the columns to copy into the output. `max_model_len` limits prompt and answer together, in
    tokens, and `vocab` is the number of tokens that the model knows. `in_flight` is the number of
    requests that the feed keeps in the engine. `storage_patience` is the number of seconds for
    which a failing call to storage is tried again. One engine holds `devices` GPUs (1 for an engine
    on a CPU), each at `price` per hour. `name` is the name of the job, `run` the id of the run in
    the manifest, which parts name. `asked` is what the job asks
    of the form of its answers. A node that does not see `landmarks` does not share the job's
    paths with the driver. `known` are the keys of files of known answers (see `units/known.py`).
    `reads_all` says that no row has a column beside `columns`. `timed` says that receipts hold the
    times of each row in the engine.
    """

    output: str
    route: str
    model: str
    files: ModelFiles | None
    prompt: Prompt
    id_column: str | None
    columns: tuple[str, ...]
    keep_schema: pa.Schema
    max_model_len: int
    vocab: int
    sampling: dict[str, Any]
    engine: EngineConfig
    policy: RowPolicy
    in_flight: int
    asked: Asked = field(default_factory=Asked)
    storage_patience: float = 300.0
    order: Order = "auto"
    name: str = "gemma-batch"
    run: str | None = None
    devices: float = 1.0
    price: float | None = None
    landmarks: Landmarks = field(default_factory=Landmarks)
    reads_all: bool = False
    known: tuple[str, ...] = ()
    timed: bool = False
