"""Ray nodes of tests whose workers start at once: forks of a process that has the imports done.

A worker of Ray spends some four seconds of the processor on imports, two of them on Ray's own, and
each run needs several workers. With `ray start` run by this program, the raylet starts workers by
this file in the place of Ray's `setup_worker.py`, which goes the same way but without imports. The
first one that it starts makes the process that forks. Each worker still is a process of its own, a
descendant of its raylet, with its own arguments and environment. Clusters that a run starts itself,
and nodes that `ray` starts, have Ray's own workers.

    python warm_workers.py start OPTION ...          ray start
    python warm_workers.py .../default_worker.py ... a worker, as the raylet asks for it
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shlex
import signal
import socket
import sys
import time
from typing import Any, NoReturn

import warm

CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="
# What the workers of a run import sooner or later.
MODULES = [
    "tests.ray_ids",
    "ray._private.workers.default_worker",
    "ray.data",
    "pandas",
    "duckdb",
    "s3fs",
    "gemma_batch.cluster.pipeline",
    "gemma_batch.cluster.worker",
    "gemma_batch.engines.echo",
]
NO_JOB = "ffffffff"
PATIENCE = 60.0  # seconds
LOOK = 1.0  # seconds between two looks whether the raylet is there


def node() -> None:
    """`ray start`, whose raylet starts workers by this file, and which serves no Ray client."""
    from ray._private.parameter import RayParams
    from ray.scripts.scripts import main

    made = RayParams.__init__

    def with_ours(self: RayParams, *args: object, **given: object) -> None:
        made(self, *args, **{"setup_worker_path": os.path.abspath(__file__), **given})
        self.ray_client_server_port = None  # a server that nobody uses, and that takes seconds

    RayParams.__init__ = with_ours
    main()


def worker(*arguments: str) -> None:
    """Ask for a fork that becomes the worker, and end when it ends.

    A worker with a runtime environment of more than a folder and variables starts as Ray's own.
    """
    text = next((a.removeprefix(CONTEXT) for a in arguments if a.startswith(CONTEXT)), "")
    context = {name: value for name, value in json.loads(text or "{}").items() if value}
    python, env = context.pop("py_executable", sys.executable), context.pop("env_vars", {})
    folder = os.getcwd()
    match context.pop("command_prefix", []):
        case []:
            pass
        case ["cd", name, "&&"]:
            (folder,) = shlex.split(name)
        case other:
            context["command_prefix"] = other
    known = python == sys.executable and f"{LANGUAGE}PYTHON" in arguments
    if context or not known or any("$" in value for value in env.values()):
        own = os.path.join(os.path.dirname(arguments[0]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, own, *arguments])
    left = [a for a in arguments if not a.startswith((CONTEXT, LANGUAGE))]
    request = {"argv": left, "env": {**os.environ, **env}, "cwd": folder, "new": False}
    server, told = _connect(next(a for a in left if a.startswith("--raylet-name=")))
    told.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, warm.REQUEST)
    socket.send_fds(told, [json.dumps(request).encode()], [1, 2])
    status = told.recv(16)
    if server:
        os.waitpid(server, 0)  # it stays below the raylet
    sys.exit(os.waitstatus_to_exitcode(int(status)) if status else 1)


def _connect(name: str) -> tuple[int, socket.socket]:
    """A connection to this raylet's process that forks, and its id where this one has made it."""
    address = f"\0warm{name}"
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = 0
    with contextlib.suppress(OSError):  # another worker is the first
        ours.bind(address)
        ours.listen(64)
        if (server := os.fork()) == 0:
            serve(ours)
    ours.close()
    deadline = time.monotonic() + PATIENCE
    while True:
        told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            told.connect(address)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody forks"
            time.sleep(0.01)
        else:
            return server, told


def serve(door: socket.socket) -> NoReturn:
    """Fork on request while the raylet is there."""
    os.setpgid(0, 0)
    raylet = int(os.environ["RAY_RAYLET_PID"])
    # Ray reads its settings when it is imported. A worker of no job, as a raylet starts them in
    # advance, gets its job with its first task.
    os.environ["RAY_JOB_ID"] = NO_JOB
    for module in MODULES:
        importlib.import_module(module)
    asking, ended = dict[int, socket.socket](), dict[int, socket.socket]()
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([door, awake, *asking], [], [], LOOK)
        if awake in ready:
            os.read(awake, 4096)
        warm.tell_ended(ended)
        if door in ready:
            one = door.accept()[0]
            asking[one.fileno()] = one
        for place in [place for place in asking if place in ready]:
            one = asking.pop(place)
            data, files, _, _ = socket.recv_fds(one, warm.REQUEST, 2)
            if data and (pid := os.fork()) == 0:
                _become(json.loads(data), files)
            for file in files:
                os.close(file)
            if data:
                ended[pid] = one
        try:
            os.kill(raylet, 0)
        except ProcessLookupError:
            os._exit(0)


def _become(request: dict[str, Any], files: list[int]) -> NoReturn:
    """In the fork: the worker."""
    try:
        os.setpgid(0, 0)  # the raylet ends a worker with its process group
        importlib.import_module("numpy").random.seed()
        places = request["env"].get("PYTHONPATH", "").split(os.pathsep)
        sys.path[1:1] = [place for place in places if place and place not in sys.path]
        warm.become(request, files)
    finally:
        os._exit(1)


if __name__ == "__main__":
    # As for Ray's own: not this folder, whose names are those of other packages.
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[1]))
    if sys.argv[1] == "start":
        sys.path.pop(0)
        node()
    else:
        worker(*sys.argv[1:])
