"""Processes of an engine that are forked from a template, which has vLLM imported already.

In a Ray actor vLLM can only spawn its processes: the core imports all of vLLM after this process
has, and each worker after the core, seconds every time. A template imports it beside this process
and is forked instead; the core then forks its workers, as vLLM does by itself outside of actors.
An engine that is started again after a death finds the template there.

The template is multiprocessing's fork server: one per process, without threads and without a
context on a GPU, and gone when the last process that knows it is.

However they are made, an engine's processes end with the process that wanted them. Nobody else
would end them when that is killed: Ray ends an actor's own children, and a forked core is the
template's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, parent_process, resource_tracker
from multiprocessing.context import (
    BaseContext,
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from types import ModuleType
from typing import Any, TypeVar

import psutil

logger = logging.getLogger(__name__)
T = TypeVar("T")

METHOD, SPAWN = "VLLM_WORKER_MULTIPROC_METHOD", "spawn"
CONTEXT = "get_mp_context"  # by which vLLM asks for the means to start a process
THREADS = "OMP_NUM_THREADS"
BUILDING = threading.Lock()  # held while vLLM's module and our main module are changed for a start
# Where and how vLLM lists a worker's cores, by OpenMP library: GNU's, Intel's, any other.
CORES = {
    "GOMP_CPU_AFFINITY": r"(\d+(?: \d+)*)",
    "KMP_AFFINITY": r"granularity=fine,explicit,proclist=\[(\d+(?:,\d+)*)\]",
    "OMP_PLACES": r"\{(\d+(?:,\d+)*)\}",
}


class SpawnedProcess(SpawnProcess):
    """A spawned process that ends with the one that started it."""

    def run(self) -> None:
        end_with_parent()
        super().run()


class TemplateProcess(ForkServerProcess):
    """The same, with its parent's environment of the moment it starts, as if it were spawned."""

    def start(self) -> None:
        self._environment = {**os.environ}
        super().start()

    def run(self) -> None:
        end_with_parent()
        # Only what differs: names of processes are written over the environment as it was.
        wanted, found = self._environment, {**os.environ}
        for name in found.keys() - wanted.keys():
            del os.environ[name]
        changed = {name: value for name, value in wanted.items() if found.get(name) != value}
        os.environ.update(changed)
        os.environ.pop(METHOD, None)  # its own workers: forked, unless vLLM knows better
        if THREADS in changed:
            take_threads()
        os.register_at_fork(after_in_child=take_cores)
        super().run()


def end_with_parent() -> None:
    """Have this process and all below it killed once the one that started it is gone.

    That is told by a pipe that only the parent has the other end of, which the operating system
    closes however it ends. A fork server does not count as a parent.
    """
    parent = parent_process()
    assert parent is not None, "not a process of multiprocessing's"

    def watch() -> None:
        parent.join()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


# A process that is forked has its OpenMP library loaded, which reads these variables only then.


def take_threads() -> None:
    """Use as many threads as the environment says now."""
    threads = os.environ.get(THREADS, "")
    if threads.isdecimal():  # a list is for nested loops, of which torch has none
        import torch

        torch.set_num_threads(int(threads))


def take_cores() -> None:
    """The same, and only the cores that vLLM names in the environment while it starts a worker.

    Threads that are not bound to them stand in the core's way, and in that of other workers.
    """
    take_threads()
    for name, form in CORES.items():
        if found := re.fullmatch(form, os.environ.get(name, "")):
            os.sched_setaffinity(0, {int(number) for number in re.findall(r"\d+", found[1])})


class Template(ForkServerContext):
    """The context that vLLM gets; `used` tells whether a process was made from it."""

    used = False

    def Process(  # type: ignore[override]  # noqa: N802  # multiprocessing's name
        self, *args: Any, **kwargs: Any
    ) -> TemplateProcess:
        self.used = True
        return TemplateProcess(*args, **kwargs)


class Spawning(SpawnContext):
    """The context that vLLM gets where there is no template."""

    def Process(  # type: ignore[override]  # noqa: N802
        self, *args: Any, **kwargs: Any
    ) -> SpawnedProcess:
        return SpawnedProcess(*args, **kwargs)


@contextlib.contextmanager
def no_main_module() -> Iterator[None]:
    """Let processes that are started meanwhile do without this one's main module.

    Python imports that first in each of them and in those that they spawn. It is Ray's worker
    program here: seconds of imports, one process after the other, of which vLLM's need nothing.
    """
    main = sys.modules["__main__"]
    kept = {name: vars(main).pop(name, None) for name in ("__file__", "__spec__")}
    # `__spec__` must be there; a `__file__` of None would break `inspect`, which vLLM uses.
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update((name, value) for name, value in kept.items() if value is not None)


def _spawns() -> bool:
    # Whoever names another method for vLLM to start processes by gets that one.
    return os.environ.get(METHOD, SPAWN) == SPAWN


def start_template(modules: Sequence[str]) -> Template | None:
    """Start the template, with this process's environment, unless it runs; returns at once.

    It imports these modules, of which none may start a thread or use a GPU. None where the
    environment names another method for vLLM to start processes by, or it could not be started.
    """
    if not _spawns():
        return None
    context = Template()
    context.set_forkserver_preload(list(modules))
    try:
        with no_main_module():
            forkserver.ensure_running()
    except OSError as err:
        logger.warning("no template of vLLM's processes could be started: %r", err)
        return None
    return context


def helpers() -> set[int]:
    """The process ids of the template and of multiprocessing's tracker, which outlive engines."""
    trackers = (
        (forkserver._forkserver, "_forkserver_pid"),
        (resource_tracker._resource_tracker, "_pid"),
    )
    return {pid for owner, name in trackers if (pid := getattr(owner, name, None)) is not None}


def build_engine(
    make: Callable[[], T],
    template: Template | None,
    launcher: ModuleType,
    given_up: threading.Event,
) -> T:
    """What `make` returns, with vLLM's core forked from the template where there is one.

    `launcher` is the module of vLLM that starts the core, with a context that it asks for; where
    its code is not as we know it, or the environment names another method, it does as ever. A
    start that fails after the fork is tried once more with spawned processes, so that the template
    is never why an engine can't be had; but not when nobody waits for it any more, which
    `given_up` says. One start at a time: a later one waits for one that was given up to end.
    Raises what `make` raises, and `TimeoutError` when it was given up before it began.
    """
    with BUILDING, no_main_module():
        if given_up.is_set():
            raise TimeoutError("given up before it began")
        if not _spawns() or CONTEXT not in vars(launcher):
            return make()
        if template is not None:
            try:
                with _started_by(template, launcher):
                    return make()
            except Exception as err:  # vLLM raises whatever its many parts raise
                if not template.used or given_up.is_set():
                    raise
                logger.warning("vLLM did not start from a template, now without: %r", err)
        with _started_by(Spawning(), launcher):
            return make()


@contextlib.contextmanager
def _started_by(context: BaseContext, launcher: ModuleType) -> Iterator[None]:
    kept = vars(launcher)[CONTEXT]
    vars(launcher)[CONTEXT] = lambda: context
    try:
        yield
    finally:
        vars(launcher)[CONTEXT] = kept
