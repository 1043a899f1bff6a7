"""The connection to a Ray cluster, and the settings that this package makes there (driver)."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
from ray.data import DataContext

from gemma_batch.errors import UserError

GROW_AT = 1.0  # units in flight per call of the pool's actors, from which on the pool grows
PROBE_SECONDS = 10  # the time limit for a first connection to the cluster


def connect(address: str | None, *, verbose: bool = False) -> None:
    """Join the cluster at `address` (default: RAY_ADDRESS), or start a local cluster.

    Does nothing when this process is connected already. `verbose` shows the logs of Ray and of the
    workers. Raises `UserError` when the cluster cannot be reached.
    """
    if ray.is_initialized():
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.WARNING}
    if target == "local":
        options["include_dashboard"] = False
        os.environ.setdefault("RAY_worker_niceness", "0")  # see worker._ask_for_normal_priority
    _probe(target)
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with contextlib.nullcontext() if verbose else _quiet():
            ray.init(address=target, **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise UserError(
            f"no Ray cluster could be reached at {target!r}: {err}. Check the address, or leave "
            "it out to run on this machine"
        ) from err


def _probe(target: str) -> None:
    # Without this test, Ray waits for minutes for a cluster that does not exist.
    host, found, port = target.removeprefix("ray://").rpartition(":")
    if not found or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as err:
        raise UserError(
            f"no Ray cluster answers at {target!r} ({err}): check --address or RAY_ADDRESS, or "
            "leave both out to run on this machine"
        ) from err


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Ray's native code writes to file descriptor 2 while it starts. Nothing is lost: errors are
    # raised as exceptions.
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def disconnect() -> None:
    """Leave the cluster. A local cluster ends."""
    ray.shutdown()


def configure() -> None:
    """Set Ray Data's limits for engines that load for a long time, and keep the terminal quiet."""
    context = DataContext.get_current()
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
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
