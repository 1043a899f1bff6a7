"""Starts the processes of a vLLM engine by forking them from a template; runs in the GPU actor.

The template is a process that has imported vLLM and waits. vLLM starts its engine core from this
process (the actor), and with tensor parallelism the core starts workers. Without a template, vLLM
can only spawn these processes when it runs in a Ray actor: the core imports all of vLLM after the
actor has, and each worker imports it after the core. Each of these imports takes seconds. The
template imports vLLM at the same time as the actor does, and the core is forked from the template.
The core then forks its workers, as vLLM does outside of Ray actors. An engine that is started again
after its death finds the template ready.

The template is the fork server of Python's `multiprocessing`. A process has at most one template.
The template has no threads and no context on a GPU, and it ends when the last process that holds
its pipe has ended.

An engine's processes, forked or spawned, end when the process that started the engine ends. Without
this rule a forked core would live on when the actor is killed, because Ray ends only the actor's
own children, and a forked core is a child of the template.

`resources.fork_template` of the spec turns the template off, for every start of an engine: then the
caller starts no template, and the processes are spawned. A start method that people set themselves,
by `VLLM_WORKER_MULTIPROC_METHOD=fork` in the environment, turns it off too, but in a Ray actor for
the first start only, because vLLM itself sets the variable to `spawn` there.
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
CONTEXT = "get_mp_context"  # vLLM's function that returns the multiprocessing context to use
THREADS = "OMP_NUM_THREADS"
BUILDING = threading.Lock()  # held during a start, which changes vLLM's module and our main module
# The variables in which vLLM lists the CPU cores of a worker, and their formats. Each OpenMP
# library has its own variable: GNU's, Intel's, all others.
CORES = {
    "GOMP_CPU_AFFINITY": r"(\d+(?: \d+)*)",
    "KMP_AFFINITY": r"granularity=fine,explicit,proclist=\[(\d+(?:,\d+)*)\]",
    "OMP_PLACES": r"\{(\d+(?:,\d+)*)\}",
}


class SpawnedProcess(SpawnProcess):
    """A spawned process that ends when the process that started it ends."""

    def run(self) -> None:
        end_with_parent()
        super().run()


class TemplateProcess(ForkServerProcess):
    """A process forked from the template; it ends when the process that started it ends.

    Its environment variables are those of the starting process at the moment of the start, as in a
    spawned process, not those of the template.
    """

    def start(self) -> None:
        self._environment = {**os.environ}
        super().start()

    def run(self) -> None:
        end_with_parent()
        # Change only the variables that differ: vLLM's names of processes are written over the
        # memory of the original environment, which a variable leaves when it is set again.
        wanted, found = self._environment, {**os.environ}
        for name in found.keys() - wanted.keys():
            del os.environ[name]
        changed = {name: value for name, value in wanted.items() if found.get(name) != value}
        os.environ.update(changed)
        os.environ.pop(METHOD, None)  # the core forks its workers, unless vLLM forces a spawn
        if THREADS in changed:
            take_threads()
        os.register_at_fork(after_in_child=take_cores)  # in each worker that the core forks
        super().run()


def end_with_parent() -> None:
    """Start a thread that kills this process and its descendants when its parent has ended.

    The parent is the process that called `start()`; the template does not count as the parent.
    Only the parent holds the other end of a pipe to this process. The operating system closes the
    pipe when the parent ends, for whatever reason, and the thread waits for this.
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


# OpenMP reads its environment variables once, when its library is loaded. A forked process has the
# library loaded already, so the two functions below apply the variables by hand.


def take_threads() -> None:
    """Set torch's number of threads to `OMP_NUM_THREADS`, when this is one number."""
    threads = os.environ.get(THREADS, "")
    if threads.isdecimal():  # a list of numbers is for nested loops, and torch has none
        import torch

        torch.set_num_threads(int(threads))


def take_cores() -> None:
    """Apply the number of threads and bind this process to the CPU cores that vLLM lists for it.

    vLLM lists the cores of a worker in the environment while it starts the worker. A worker that is
    not bound to its cores takes time from the engine core and from the other workers.
    """
    take_threads()
    for name, form in CORES.items():
        if found := re.fullmatch(form, os.environ.get(name, "")):
            os.sched_setaffinity(0, {int(number) for number in re.findall(r"\d+", found[1])})


class Template(ForkServerContext):
    """The multiprocessing context that makes vLLM fork its core from the template.

    `used` is true once a process was made with this context.
    """

    used = False

    def Process(  # type: ignore[override]  # noqa: N802  # multiprocessing's name
        self, *args: Any, **kwargs: Any
    ) -> TemplateProcess:
        self.used = True
        return TemplateProcess(*args, **kwargs)


class Spawning(SpawnContext):
    """The multiprocessing context that vLLM gets when there is no template: it spawns the core."""

    def Process(  # type: ignore[override]  # noqa: N802
        self, *args: Any, **kwargs: Any
    ) -> SpawnedProcess:
        return SpawnedProcess(*args, **kwargs)


@contextlib.contextmanager
def no_main_module() -> Iterator[None]:
    """Hide this process's main module from the processes that are started in this block.

    `multiprocessing` imports the main module of the starting process first of all in every process
    that it starts. In a Ray actor the main module is Ray's worker program. Its import takes
    seconds in each process, one process after the other, and vLLM's processes need none of it.
    """
    main = sys.modules["__main__"]
    kept = {name: vars(main).pop(name, None) for name in ("__file__", "__spec__")}
    # `__spec__` must exist, so it is None. `__file__` must not exist: a `__file__` of None would
    # break Python's `inspect`, which vLLM uses.
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update((name, value) for name, value in kept.items() if value is not None)


def _spawns() -> bool:
    # Respect a start method that the user has set.
    return os.environ.get(METHOD, SPAWN) == SPAWN


def start_template(modules: Sequence[str]) -> Template | None:
    """Start the template, or find the one that runs; return before its imports are done.

    The template gets this process's environment and imports `modules`. None of these modules may
    start a thread or use a GPU when it is imported. Returns the context to give to `build_engine`.
    Returns None when the environment variable `VLLM_WORKER_MULTIPROC_METHOD` names a start method
    other than `spawn`, or when the template cannot be started (a warning says why).
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
    """The process ids of the template and of multiprocessing's resource tracker.

    Both belong to this process and not to an engine: they live on when an engine is stopped.
    """
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
    """Call `make`, which starts a vLLM engine, and return the engine.

    vLLM's core is forked from `template`, or spawned when `template` is None. `launcher` is the
    module of vLLM that starts the core; it gets the multiprocessing context for this from its
    function `get_mp_context`, which is replaced during the call. If this version of vLLM has no
    such function there, or the user has set `VLLM_WORKER_MULTIPROC_METHOD`, vLLM starts its
    processes the normal way.

    When a start fails after a process was forked, `make` is called once more with spawned
    processes: the template must never be the reason that an engine cannot start. There is no second
    call when `given_up` is set, because the caller no longer waits for the engine.

    Only one start runs at a time in this process. A later call waits until an earlier start has
    ended, even one that was given up. Raises the error of `make`, or `TimeoutError` when `given_up`
    was set before the start began.
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
            except Exception as err:  # vLLM can raise any type of error here
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
