"""The template: processes forked from it, and starts that work although it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import psutil
import pytest

from gemma_batch.engines.forking import (
    METHOD,
    Spawning,
    build_engine,
    helpers,
    no_main_module,
    start_template,
)
from gemma_batch.engines.vllm import VllmEngine
from tests.engines.asked_vllm import config_for
from tests.integration.helpers import environment

MODULE = "wave"  # of the standard library; nothing else imports it


def tell(end: Connection) -> None:
    """The program of a started process: it sends what it finds in itself."""
    found = {"parent": os.getppid(), "imported": MODULE in sys.modules}
    end.send({**found, "later": os.environ.get("LATER"), "method": os.environ.get(METHOD)})


def tell_cores(end: Connection) -> None:
    """The program of a worker: it sends its CPU cores and its number of threads."""
    import torch

    end.send({"cores": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads()})


def tell_of_workers(end: Connection) -> None:
    """The program of a core with two workers: one whose CPU cores are listed as vLLM does it, one
    without a list. It sends what the workers found."""
    free = asked(get_context("fork"), tell_cores)
    last = max(os.sched_getaffinity(0))
    named = {"GOMP_CPU_AFFINITY": f"{last}", "OMP_NUM_THREADS": "1", "OMP_PLACES": "cores(2)"}
    os.environ.update(named)
    bound = asked(get_context("fork"), tell_cores)
    end.send({"free": free["cores"], "bound": bound["cores"], "threads": bound["threads"]})


def live_on(end: Connection) -> None:
    """The program of a core with one worker; both live for an hour. It sends their process ids."""
    worker = get_context("fork").Process(target=time.sleep, args=(3600,))
    worker.start()
    end.send([os.getpid(), worker.pid])
    time.sleep(3600)


def owner() -> None:
    """The owner of a forked and a spawned core: prints all process ids and waits to be killed."""
    template = start_template([MODULE])
    assert template is not None
    pids = []
    for context in (template, Spawning()):
        ours, theirs = get_context("spawn").Pipe()
        core = context.Process(target=live_on, args=(theirs,))
        core.start()
        pids += ours.recv()
    print(json.dumps({"engines": pids, "helpers": sorted(helpers())}), flush=True)
    core.join()


def asked(context: Any, what: Callable[[Connection], None] = tell) -> dict[str, Any]:
    """Start a process by this context and return what it sends."""
    ours, theirs = get_context("spawn").Pipe()
    process = context.Process(target=what, args=(theirs,), name="one")
    process.start()
    theirs.close()
    found: dict[str, Any] = ours.recv()
    process.join()
    return {**found, "pid": process.pid}


def program() -> None:
    """The program of a process that uses a template in each way; it prints what it saw as JSON."""
    os.environ[METHOD] = "fork"
    assert start_template([MODULE]) is None, "the user's start method is respected"
    os.environ[METHOD] = "spawn"
    template = start_template([MODULE])
    assert template is not None
    os.environ["LATER"] = "after the template was started"
    launcher = types.ModuleType("launcher")
    vars(launcher)["get_mp_context"] = lambda: get_context("spawn")

    def make() -> dict[str, Any]:
        return asked(launcher.get_mp_context())

    wanted = threading.Event()
    seen: dict[str, Any] = {"first": build_engine(make, template, launcher, wanted)}
    seen["restart"] = build_engine(make, start_template([MODULE]), launcher, wanted)
    seen["none"] = build_engine(make, None, launcher, wanted)
    seen["workers"] = asked(template, tell_of_workers)

    def fail_if_forked() -> dict[str, Any]:
        found = asked(launcher.get_mp_context())
        if found["parent"] != os.getpid():
            raise RuntimeError("no engine from a template")
        return found

    seen["second try"] = build_engine(fail_if_forked, start_template([MODULE]), launcher, wanted)
    tries = []

    def fail_before() -> None:
        tries.append(1)
        raise ValueError("wrong arguments")

    try:
        build_engine(fail_before, start_template([MODULE]), launcher, wanted)
    except ValueError as err:
        seen["error"] = str(err)
    other = types.ModuleType("a launcher of another vLLM")
    build_engine(lambda: None, template, other, wanted)
    seen |= {"tries": len(tries), "changed": len(vars(other)) != len(vars(types.ModuleType("x")))}
    seen |= {"helpers": sorted(helpers()), "pid": os.getpid()}
    print(json.dumps(seen))


def seen_by(what: Callable[[], None]) -> dict[str, Any]:
    """Run this function of this module in a new process and return the JSON that it prints."""
    name = what.__name__
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import {name}; {name}()"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def switched_off() -> None:
    """The program of an actor whose spec turns the template off, over several starts."""
    seen = []
    for device in ("cpu", "gpu", "gpu"):
        config = dataclasses.replace(config_for("-"), device=device, fork_template=False)
        seen.append(VllmEngine(config)._prepare() is None)
        os.environ[METHOD] = "spawn"  # vLLM sets it in a Ray actor
    print(json.dumps({"off": seen, "helpers": sorted(helpers())}))


def test_the_field_of_the_spec_turns_the_template_off_for_every_start() -> None:
    """Not only for the first, as the variable of the environment does in a Ray actor."""
    seen = seen_by(switched_off)
    assert seen["off"] == [True, True, True]
    assert seen["helpers"] == []


def test_a_template_from_its_start_to_its_end() -> None:
    """Forked processes have its imports and the current environment; a start that fails is tried
    once more without it; and it ends with its owner."""
    seen = seen_by(program)
    for name in ("first", "restart"):
        assert seen[name]["parent"] in seen["helpers"]
        assert seen[name]["imported"]
        assert seen[name]["method"] is None
    assert seen["first"]["parent"] == seen["restart"]["parent"], "one template for all starts"
    assert seen["first"]["pid"] != seen["restart"]["pid"]
    for name in ("none", "second try"):
        assert seen[name]["parent"] == seen["pid"]
        assert not seen[name]["imported"]
        assert seen[name]["method"] == "spawn"
    assert {seen[name]["later"] for name in ("first", "none")} == {"after the template was started"}
    assert (seen["error"], seen["tries"]) == ("wrong arguments", 1)
    assert not seen["changed"]
    cores = sorted(os.sched_getaffinity(0))
    assert seen["workers"]["free"] == cores
    assert (seen["workers"]["bound"], seen["workers"]["threads"]) == (cores[-1:], 1)
    wait_until_gone(seen["helpers"])


def wait_until_gone(pids: list[int]) -> None:
    """Fails when one of these processes is still there after a while."""
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, f"{left} outlived their owner"
        time.sleep(0.1)


@pytest.mark.parametrize("template_first", [False, True])
def test_no_process_of_an_engine_outlives_the_process_that_started_it(template_first: bool) -> None:
    """Not even when Ray kills the actor's own child, the template, before it kills the actor. A
    core that lived on would hold its GPU for ever."""
    code = f"from {__name__} import owner; owner()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids: dict[str, list[int]] = json.loads(process.stdout.readline())
    try:
        assert all(psutil.pid_exists(pid) for pid in pids["engines"])
        for pid in pids["helpers"] if template_first else []:
            os.kill(pid, signal.SIGKILL)
        assert all(psutil.pid_exists(pid) for pid in pids["engines"]), "their owner still lives"
        process.kill()
        process.wait()
        wait_until_gone(pids["engines"] + pids["helpers"])
    finally:
        process.kill()
        for pid in pids["engines"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def given_up() -> None:
    """The program of a process that gives up a start and begins the next while the first still
    waits for its core."""
    launcher = types.ModuleType("launcher")
    vars(launcher)["get_mp_context"] = real = lambda: get_context("spawn")
    first, forgotten = threading.Event(), threading.Event()
    contexts: list[Any] = []
    pids: list[int] = []

    def hang() -> None:
        contexts.append(launcher.get_mp_context())
        ours, theirs = get_context("spawn").Pipe()
        core = contexts[-1].Process(target=live_on, args=(theirs,))
        core.start()
        pids.extend(ours.recv())
        first.set()
        core.join()
        raise RuntimeError("the core died")

    def make() -> dict[str, Any]:
        return asked(launcher.get_mp_context())

    with ThreadPoolExecutor() as pool:
        old = pool.submit(build_engine, hang, start_template([MODULE]), launcher, forgotten)
        first.wait()
        forgotten.set()
        new = pool.submit(build_engine, make, start_template([MODULE]), launcher, threading.Event())
        late = pool.submit(build_engine, hang, None, launcher, forgotten)
        time.sleep(0.5)
        assert not new.done(), "two starts at once would take each other's changes back"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        errors = [str(future.exception()) for future in (old, late)]
        seen = {"errors": errors, "tries": len(contexts), "new": new.result()}
    same = launcher.get_mp_context is real
    print(json.dumps({**seen, "same": same, "helpers": sorted(helpers())}))


def test_a_start_that_was_given_up_leaves_no_engine_behind() -> None:
    """It is not tried again without the template: nobody would use that engine, and it would be on
    the same GPU as the next one. The next start works as usual."""
    seen = seen_by(given_up)
    assert seen["errors"] == ["the core died", "given up before it began"]
    assert seen["tries"] == 1
    assert seen["new"]["parent"] in seen["helpers"]
    assert seen["same"]


def test_processes_of_the_engine_do_not_import_our_main_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The main module is hidden during a start and is back after it, even when the start fails."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", __file__, raising=False)  # xdist's workers have none
    before = (main.__file__, main.__spec__)
    with contextlib.suppress(ZeroDivisionError), no_main_module():
        told = multiprocessing.spawn.get_preparation_data("x")
        assert not [key for key in told if key.startswith("init_main")]
        assert inspect.getmodule(inspect.currentframe()) is sys.modules[__name__]
        raise ZeroDivisionError
    assert (main.__file__, main.__spec__) == before
    told = multiprocessing.spawn.get_preparation_data("x")
    assert [key for key in told if key.startswith("init_main")]
