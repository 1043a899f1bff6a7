"""Python processes that start at once: forks of one that has imported already what they need.

A command line spends seconds on imports, and tests run hundreds of them. Each still is a process
of its own with its own arguments, environment and files, whose pid can be killed. Run as a program
this is the process that forks (nothing but the standard library, for Airflow's interpreter too):

    python warm.py SOCKET_FD MODULE ...
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

REQUEST = 1 << 20  # bytes: arguments and environment


class Process:
    """What `subprocess.Popen` offers, of a process that the warm one forked.

    What it prints goes to files; `communicate` gives those that no file was given for.
    """

    def __init__(self, args: Sequence[str], pid: int, ended: socket.socket) -> None:
        self.args, self.pid = list(args), pid
        self.returncode: int | None = None
        self.kept: list[IO[bytes] | None] = [None, None]
        self._ended = ended

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has one."""
        if self._look(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            status = self._ended.recv(16)
            assert status, "the warm process is gone"
            self.returncode = os.waitstatus_to_exitcode(int(status))
            self._ended.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Both outputs, when it has ended."""
        self.wait(timeout)
        return self.said(0), self.said(1)

    def said(self, which: int) -> str:
        """What it printed until now to stdout (0) or stderr (1)."""
        if (file := self.kept[which]) is None:
            return ""
        # Not by seeking: the process writes where the file's one position is.
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """The process that forks; it ends with the one that made it."""

    def __init__(self, python: str, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST)
        program = [python, __file__, str(theirs.fileno()), *modules]
        self._process = subprocess.Popen(
            program, env=env, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL
        )
        theirs.close()

    def start(
        self,
        *arguments: str,
        env: Mapping[str, str],
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        new_session: bool = False,
    ) -> Process:
        """`python ARGUMENTS`: a script, `-m MODULE` or `-c CODE`, and what it is given."""
        kept = [
            tempfile.TemporaryFile() if one is None else None  # noqa: SIM115 - while it runs
            for one in (stdout, stderr)
        ]
        files = [one.fileno() for one in (stdout or kept[0], stderr or kept[1]) if one]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"argv": arguments, "env": dict(env), "cwd": os.getcwd(), "new": new_session}
        socket.send_fds(self._socket, [json.dumps(request).encode()], [*files, theirs.fileno()])
        theirs.close()
        process = Process(arguments, int(ours.recv(16)), ours)
        process.kept = kept
        return process

    def run(
        self, *arguments: str, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """To its end, with what it said."""
        process = self.start(*arguments, env=env)
        try:
            said = process.communicate(timeout)
        except subprocess.TimeoutExpired as err:
            process.kill()
            raise AssertionError(f"{process.args} did not end: {process.said(1)[-6000:]}") from err
        return subprocess.CompletedProcess(process.args, process.wait(), *said)

    def close(self) -> None:
        """What it forked goes on."""
        self._socket.close()
        self._process.wait()


def become(request: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """In a fork: what a new interpreter does."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["new"]:
            os.setsid()
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(request["env"])
        time.tzset()
        os.chdir(request["cwd"])
        first, *rest = request["argv"]
        try:
            if first == "-m":
                sys.argv = rest
                runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            elif first == "-c":
                sys.argv = ["-c", *rest[1:]]
                exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
            else:
                sys.argv = [first, *rest]
                runpy.run_path(first, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        # As an interpreter does at its end, but for what only frees memory.
        import atexit
        import threading

        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    finally:
        os._exit(code)


def tell_ended(ended: dict[int, socket.socket]) -> None:
    """Send the exit status of each fork that has ended to the process that asked for it."""
    for pid in list(ended):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with contextlib.suppress(OSError), ended.pop(pid) as told:
                told.send(str(status).encode())


def main(fd: str, *modules: str) -> None:
    """Fork on request until the other end is gone."""
    for module in modules:
        importlib.import_module(module)
    control, ended = socket.socket(fileno=int(fd)), dict[int, socket.socket]()
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who asked
    while True:
        ready, _, _ = select.select([control, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
        tell_ended(ended)
        if control in ready:
            data, files, _, _ = socket.recv_fds(control, REQUEST, 3)
            if not data:
                return
            *streams, done = files
            sys.stdout.flush()
            if (pid := os.fork()) == 0:
                become(json.loads(data), streams)
            for file in streams:
                os.close(file)
            ended[pid] = socket.socket(fileno=done)
            ended[pid].send(str(pid).encode())


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)
    main(*sys.argv[1:])
