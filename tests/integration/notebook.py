"""Somebody else's program that calls gemma_batch: a process of its own, run by `test_guest.py`.

python -m tests.integration.notebook own FOLDER MODEL        the caller has started Ray
python -m tests.integration.notebook none FOLDER MODEL       Ray is not up; RAY_ADDRESS names one
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

import gemma_batch
from gemma_batch.cluster import pipeline
from gemma_batch.cluster.run_actors import make_board
from gemma_batch.family.hardware import Hardware
from gemma_batch.reading.cores import PARALLEL, THREADS
from gemma_batch.reporting.progress import LogProgress, Snapshot
from gemma_batch.storage import patience
from gemma_batch.storage.fs import open_store

ROWS = 60


def on_signal(number: int, frame: Any) -> None:
    """The caller's handler; no test sends its signal."""


def state() -> dict[str, Any]:
    """What belongs to the caller's process, and what a guest must leave as it was."""
    loggers = [logging.getLogger(), logging.getLogger("ray"), logging.getLogger("ray.data")]
    loggers += [logging.getLogger("of.the.caller")]
    numbers = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    context = ray.data.DataContext.get_current()
    return {
        "signals": {number: signal.getsignal(number) for number in numbers},
        "logging": {
            one.name: (one.level, one.propagate, one.disabled, tuple(one.handlers), *one.filters)
            for one in loggers
        },
        "environ": dict(os.environ),
        "context": context,
        "settings": {name: repr(value) for name, value in vars(context).items()},
        "auto connect": ray._private.auto_init_hook.enable_auto_connect,
        "excepthook": (sys.excepthook, threading.excepthook),
        "faulthandler": faulthandler.is_enabled(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "folder": os.getcwd(),
        "ray": ray.is_initialized() and ray.get_runtime_context().gcs_address,
        "patience": patience.patience(),
    }


def same(before: dict[str, Any], what: str) -> None:
    """Nothing of the caller's differs from `before`."""
    after = state()
    for name, value in before.items():
        assert after[name] == value, f"{what}: {name} was {value}, is {after[name]}"


def spec(folder: Path, model: str, name: str, **extra: Any) -> gemma_batch.JobSpec:
    """A job with the echo engine on rows of a few words."""
    path = folder / "in.jsonl"
    lines = [json.dumps({"id": f"r{i}", "doc": f"text {i} of {i % 7}"}) for i in range(ROWS)]
    path.write_text("\n".join(lines) + "\n")
    return gemma_batch.JobSpec.from_dict(
        {
            "input": {"path": str(path), "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": model,
            "sampling": {"max_tokens": 4},
            "output": {"path": str(folder / name)},
            "resources": {"engine": "echo", "max_model_len": 512, **extra.pop("resources", {})},
            "policy": {"unit_rows": 20, **extra},
        }
    )


def in_a_cell(call: Callable[[], Any]) -> Any:
    """As a notebook calls: in the main thread, in which an event loop runs."""

    async def cell() -> Any:
        return call()

    return asyncio.run(cell())


def in_a_thread(call: Callable[[], Any]) -> Any:
    """As a server calls."""
    got: list[Any] = []

    def target() -> None:
        try:
            got.append(call())
        except BaseException as err:
            got.append(err)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if isinstance(got[0], BaseException):
        raise got[0]
    return got[0]


class Interrupting(LogProgress):
    """Progress that interrupts the run, as Ctrl-C does, at the first answer."""

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress`."""
        super().update(snapshot)
        if snapshot.done:
            os.kill(os.getpid(), signal.SIGINT)


class Failing(LogProgress):
    """Progress of the caller that has a fault."""

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress`."""
        if snapshot.done:
            raise ZeroDivisionError


def own_job(**settings: Any) -> None:
    """The caller's Ray Data job: it works, and has the caller's settings."""
    dataset = ray.data.range(20, override_num_blocks=2).map(lambda row: {"n": row["id"] * 2})
    for name, value in settings.items():
        assert getattr(dataset.context, name) == value, name
    assert sum(row["n"] for row in dataset.take_all()) == 380


def nothing_left() -> None:
    """No actor of a run is alive, and the caller's CPUs are free."""
    deadline = time.monotonic() + 60
    while True:
        alive = [
            actor["ActorClassName"]
            for actor in ray._private.state.actors().values()
            if actor["State"] != "DEAD" and re.search("Worker|Board", actor["ActorClassName"])
        ]
        free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
        if free and not alive:
            return
        assert time.monotonic() < deadline, f"left in the caller's Ray: {alive}, CPUs free: {free}"
        time.sleep(0.2)


def refused(call: Callable[[], Any], *words: str) -> None:
    """The call is refused with a sentence that has these words."""
    with pytest.raises(gemma_batch.UserError) as refusal:
        call()
    assert all(word in str(refusal.value) for word in words), refusal.value


def the_callers_ray() -> tuple[dict[str, Any], dict[str, Any]]:
    """Have Ray, and settings that a guest must neither change nor be hurt by; what is to stay."""
    ray.init(os.environ.pop("RAY_ADDRESS"), logging_level="ERROR", log_to_driver=False)
    context = ray.data.DataContext.get_current()
    settings = {"target_max_block_size": 7 * 2**20, "execution_no_progress_timeout_s": 77}
    for name, value in settings.items():
        setattr(context, name, value)
    context.max_errored_blocks = 3
    context.execution_options.preserve_order = True
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return state(), settings


def with_own_ray(folder: Path, model: str) -> None:
    """Runs that end well, that are refused and that stop half-way, beside the caller's jobs."""
    before, settings = the_callers_ray()
    address = before["ray"]
    report = in_a_cell(lambda: gemma_batch.run(spec(folder, model, "first"), address=address))
    assert report.answered == ROWS
    same(before, "a run in the main thread")
    own_job(**settings)

    other = spec(folder, model, "other")
    refused(lambda: gemma_batch.run(other, address="127.0.0.1:1"), "'127.0.0.1:1'", address)
    refused(lambda: gemma_batch.run(other, address="ray://head:10001"), "ray://", "submit")
    gemma_batch.plan(other)
    same(before, "refusals and a plan")

    # Ctrl-C in the middle of a unit. The error is kept, as notebooks keep it.
    crawl = {"resources": {"engine_args": {"rows_per_second": 2}}}
    job, at_once = spec(folder, model, "stopped", **crawl), Interrupting(10)
    with pytest.raises(KeyboardInterrupt) as stopped:
        in_a_cell(lambda: gemma_batch.run(job, progress=at_once))
    sys.last_value = stopped.value
    same(before, "a run that is interrupted")
    nothing_left()
    assert len(open_store(str(folder / "stopped")).list("results")) < ROWS // 20
    own_job(**settings)


def with_own_ray_long(folder: Path, model: str) -> None:
    """A sort, a run with failed rows in a thread, and a retry."""
    before, settings = the_callers_ray()
    sort = {"resources": {"sort": "always"}}
    report = gemma_batch.run(spec(folder, model, "sorted", **sort))
    assert report.answered == ROWS
    same(before, "a run over sorted input")
    nothing_left()

    slow = {"resources": {"engine_args": {"rows_per_second": 40}}, "row_deadline": 0.3}
    report = in_a_thread(lambda: gemma_batch.run(spec(folder, model, "slow", **slow)))
    assert report.failed > 0
    same(before, "a run in a thread")
    report = gemma_batch.retry(str(folder / "slow"), overrides=["policy.row_deadline=60"])
    assert (report.answered, report.failed) == (ROWS, 0)
    same(before, "a retry")
    nothing_left()
    own_job(**settings)

    crawl = {"resources": {"engine_args": {"rows_per_second": 2}}}
    job = spec(folder, model, "failing", **crawl)
    with pytest.raises(ZeroDivisionError):
        in_a_thread(lambda: gemma_batch.run(job, progress=Failing(10)))
    same(before, "a run that fails in a thread")
    nothing_left()
    values = reading(spec(folder, model, "other"))
    assert ("1", "false") in values, f"a reading task computes on all cores: {values}"


def reading(job: gemma_batch.JobSpec) -> set[tuple[str | None, str | None]]:
    """What the environment says of threads while a Ray task reads a unit of the job."""
    plan = gemma_batch.plan(job).placed(Hardware(gpu=None))
    board, shard, unit = make_board(), plan.survey.shards[0], plan.units(1)[0]

    @ray.remote
    def task(job_refs: list[Any]) -> set[tuple[str | None, str | None]]:
        values, ended = set(), threading.Event()

        def look() -> None:
            while not ended.is_set():
                values.add(tuple(map(os.environ.get, (THREADS, PARALLEL))))

        looking = threading.Thread(target=look)
        looking.start()
        pipeline._read(job_refs[0], board, shard, unit)
        ended.set()
        looking.join()
        return values

    return set(ray.get(task.remote([ray.put(plan.job(plan.routes[0]))])))


def without_ray(folder: Path, model: str) -> None:
    """The caller has no Ray: what a run opens is closed, and opened again by the next."""
    faulthandler.disable()
    before = state()
    report = in_a_cell(lambda: gemma_batch.run(spec(folder, model, "first")))
    assert report.answered == ROWS
    same(before, "a run")

    # Two at the same time: the first to end leaves Ray to the other.
    slow = {"resources": {"engine_args": {"rows_per_second": 20}}}
    reports: list[Any] = []
    jobs = [spec(folder, model, "quick"), spec(folder, model, "long", **slow)]
    threads = [
        threading.Thread(target=lambda job=job: reports.append(gemma_batch.run(job)))
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.answered for report in reports] == [ROWS, ROWS]
    same(before, "two runs side by side")
    own_job()  # Ray connects by itself, as it does for the caller without this package
    assert ray.is_initialized()


KINDS = {"own": with_own_ray, "own-long": with_own_ray_long, "none": without_ray}

if __name__ == "__main__":
    kind, folder, model = sys.argv[1:]
    try:
        KINDS[kind](Path(folder), model)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    print("as it was")
