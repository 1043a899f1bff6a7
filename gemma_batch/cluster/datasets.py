"""The settings of this package's data sets in Ray Data, and their end (driver)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

GROW_AT = 1.0  # units in flight per call of the pool's actors, from which on the pool grows


def tune(dataset: Any) -> Any:
    """Set Ray Data's limits for engines that load for a long time; returns the data set.

    A data set has a context of its own, so the caller's DataContext and data sets stay as they are.
    Settings of the caller that could lose units do not hold here.
    """
    context = dataset.context
    # Ray Data's limit, 30 minutes without a finished block, would end a slow load or a long unit.
    # This package has limits instead: policy.row_deadline, policy.engine_start_timeout and
    # policy.stop.stalled_minutes.
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = 3
    # A pool grows when all calls of its actors are taken and units wait. Ray Data's own threshold,
    # 1.75 units per call, would bind almost twice as many units to an actor as its engine needs.
    context.autoscaling_config = dataclasses.replace(
        context.autoscaling_config, actor_pool_util_upscaling_threshold=GROW_AT
    )
    context.max_errored_blocks = 0
    context.checkpoint_config = None
    context.execution_options.preserve_order = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return dataset


def executors_of(dataset: Any) -> list[Any]:
    """The executors that run the data set's pipeline: a list that grows when the pipeline begins.

    Ray Data itself tells of an executor only after its first block, long after engines began to
    load. Before that, the pipeline could not be stopped.
    """
    made: list[Any] = []
    make = dataset._create_executor

    def kept() -> Any:
        made.append(make())
        return made[-1]

    dataset._create_executor = kept
    return made


def stop(executors: Sequence[Any]) -> None:
    """End the pipeline of these executors, which a thread may still consume, and kill its actors.

    Ray Data itself ends a pipeline only when the consumer ends. A pipeline that still runs when
    this process leaves the cluster ends this process, with exit code 1. Actors that are not killed
    would go on with their units, and keep their GPUs, on a cluster that stays up.
    """
    for executor in list(executors):
        executor.shutdown(force=True)
