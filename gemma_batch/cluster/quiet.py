"""Quiet: Ray's own lines, log and signal handler stay out of a process that joins Ray (driver)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

import ray._private.utils

# Lines of Ray's log: of its native code, of its Python code and of the libraries below them.
RAYS_LINE = re.compile(
    rb"\[\d{4}-\d\d-\d\d [^\]]*\] |\d{4}-\d\d-\d\d [\d:,]+\t[A-Z]+ \S+:\d+ -- |[IWEF]\d{4} |"
    rb"WARNING: All log messages before absl|\s*$"
)
PASS_SECONDS = 0.05  # the pause between two looks for lines to pass on


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop the lines that Ray logs to file descriptor 2 while it starts or ends; pass on others.

    Ray's native code writes to the descriptor itself. Nothing is lost: errors are raised as
    exceptions.
    """
    try:
        kept = os.dup(2)
    except OSError:  # the process has no stderr
        yield
        return
    # A file and no pipe, because processes that Ray starts may keep it for as long as they live.
    with tempfile.TemporaryFile() as held:
        passed, ended = 0, threading.Event()

        def pass_on() -> None:
            nonlocal passed
            new = os.pread(held.fileno(), os.fstat(held.fileno()).st_size - passed, passed)
            lines = new.splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n") and not ended.is_set():
                lines.pop()
            passed += sum(map(len, lines))
            if others := [line for line in lines if not RAYS_LINE.match(line)]:
                os.write(kept, b"".join(others))

        def watch() -> None:
            while not ended.wait(PASS_SECONDS):
                pass_on()

        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        watcher = threading.Thread(target=watch, name="lines of others", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            ended.set()
            watcher.join()
            pass_on()
            os.close(kept)


@contextlib.contextmanager
def our_sigterm() -> Iterator[None]:
    """Leave the handler of SIGTERM as it is: Ray's would end the process, with exit code 15."""
    kept = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = kept


@contextlib.contextmanager
def no_log_of_its_own(verbose: bool) -> Iterator[None]:
    """Let the lines of Ray's Python code go where this process's log goes.

    Ray prints these lines itself. `verbose` leaves it so.
    """
    log = logging.getLogger("ray")
    before = list(log.handlers), log.propagate
    if not verbose:
        log.handlers, log.propagate = [], True
    try:
        yield
    finally:
        log.handlers, log.propagate = before


@contextlib.contextmanager
def level(name: str, number: int | None = None) -> Iterator[None]:
    """Keep the level of a logger, and set another meanwhile."""
    logger = logging.getLogger(name)
    before = logger.level
    if number is not None:
        logger.setLevel(number)
    try:
        yield
    finally:
        logger.setLevel(before)
