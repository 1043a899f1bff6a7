"""The `policy` part of a spec: tolerated failures, when a run stops itself, alerts, budget."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gemma_batch.spec.spec_part import Positive, SpecPart


class Stop(SpecPart):
    """When a run stops itself, with exit code 4, rather than cost money for nothing.

    Committed rows stay, and the next start goes on from there.
    """

    failed_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Stop when engines failed more than this share of the last rows. Bad rows of the input do not
    count."""

    last_rows: Positive = 1000
    """The number of last rows that `failed_share` is taken of."""

    engine_restarts: Annotated[int, Field(ge=0)] = 50
    """Stop when engines died more often than this within `minutes`; for each engine of the run."""

    minutes: Annotated[float, Field(gt=0)] = 60.0
    """The minutes in which `engine_restarts` are counted."""

    stalled_minutes: Annotated[float, Field(gt=0)] = 120.0
    """Stop when nothing has moved for this many minutes: no engine came up, no row was
    answered."""


AlertName = Literal[
    "min_tokens_per_second", "max_failed_share", "max_row_seconds", "max_memory_share"
]


class Alerts(SpecPart):
    """What somebody should hear of while a run goes on. No alert is set by default.

    An alert is told in the log, kept in the report and counted in the metrics.
    """

    min_tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    """Alert when all engines together gave fewer output tokens a second than this, on average over
    `for_seconds`. Set `for_seconds` longer than a row takes."""

    max_failed_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Alert when more than this share of the run's rows failed, from whatever cause."""

    max_row_seconds: Annotated[float, Field(gt=0)] | None = None
    """Alert when the oldest row in an engine has been there for more seconds than this."""

    max_memory_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Alert when a node with an engine has used more than this share of its memory for
    `for_seconds` without a break. It is the memory of the host, not of a GPU."""

    for_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long a value is watched before it counts, and the least time between two alerts of one
    name, in seconds."""

    stop: tuple[AlertName, ...] = ()
    """Names of the alerts that also end the run, with exit code 4. Each needs a threshold
    above."""

    @model_validator(mode="after")
    def _stops_have_thresholds(self) -> Alerts:
        for name in self.stop:
            if getattr(self, name) is None:
                raise ValueError(f"stop names {name!r}, which has no threshold: set {name} too")
        return self


class Budget(SpecPart):
    """What an output may cost in all: its runs and retries together. Default: no limit.

    Before a limit is passed, no engine begins another unit. The units that engines are working on
    are finished and committed. Then the run ends with exit code 4, and its report says
    `incomplete`. Raise the limit and run the same command to go on.
    """

    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """The most hours of GPUs; on a cluster without GPUs, the most hours of engines. The time in
    which engines start counts too."""

    cost: Annotated[float, Field(gt=0)] | None = None
    """The most that may be spent, in the currency of `resources.price_per_hour`, which every route
    needs then."""

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self.gpu_hours is not None or self.cost is not None


class Policy(SpecPart):
    """Limits of a run: the failures that it tolerates, when it stops itself, its alerts, its
    budget.

    No field changes the identity of the job, so all may change on a resume. Units stay as they
    were cut.
    """

    max_failed: int | float | str = 0
    """How many rows may fail in a run that still ends with exit code 0: a number of rows, a share
    below 1, or a text such as `0.5%`. Default: none, so that no failure goes unseen."""

    row_deadline: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that one attempt of a row may take in the engine. Then the row fails with the code
    `deadline`."""

    max_attempts: Positive = 3
    """Attempts for a row after failures that may pass. Then the row fails with the code
    `engine_error`."""

    engine_start_timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that an engine may take to load and compile. Then it is started again, three times
    in all."""

    gpu_wait: Annotated[float, Field(ge=0)] = 900.0
    """Seconds that a run with `resources.device: gpu` waits for a node with a GPU, where the
    cluster has an autoscaler and no GPU yet."""

    engine_hang_timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without a sign of life after which an engine is killed and replaced."""

    storage_patience: Annotated[float, Field(ge=0)] = 300.0
    """Seconds for which a call to storage that fails is tried again, with growing pauses, before
    the run gives up."""

    unit_rows: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Rows of a unit. A run commits a unit at once; a crash costs the units in flight. Default:
    from `unit_seconds` and the speed that the plan expects, 64 to 8,192; smaller at both ends of
    the input."""

    unit_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds of one engine's work that a unit should be. A shorter unit loses less in a crash, a
    longer one makes fewer files."""

    unit_bytes: Annotated[int, Field(ge=1024)] = 48 * 2**20
    """The most bytes of input in a unit (default: 48 MiB), unless a single row is larger. It bounds
    the memory that a unit takes."""

    progress_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between two lines of progress in a log."""

    stop: Stop = Stop()
    """When the run stops itself."""

    alerts: Alerts = Alerts()
    """What the run warns of."""

    budget: Budget = Budget()
    """What the output may cost in all."""

    @field_validator("max_failed")
    @classmethod
    def _rows_or_share(cls, value: int | float | str) -> int | float | str:
        _failure_limit(value, 100)
        return value

    def failure_limit(self, rows: int) -> int:
        """The greatest number of failed rows, out of `rows`, that still counts as success."""
        return _failure_limit(self.max_failed, rows)


def _failure_limit(value: int | float | str, rows: int) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if not match or float(match[1]) > 100:
            raise ValueError(f"{value!r} is neither a number of rows nor a share such as '0.5%'")
        return int(rows * float(match[1]) / 100)
    if value < 0:
        raise ValueError(f"{value!r} is negative")
    if isinstance(value, float):
        if value >= 1 and value != int(value):
            raise ValueError(f"{value!r} is neither a whole number of rows nor a share below 1")
        return int(rows * value) if value < 1 else int(value)
    return value
