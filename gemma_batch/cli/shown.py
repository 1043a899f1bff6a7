"""Shown: what a person sees of a command that works for long: its progress, and that it stops.

Nothing of a library comes between. Warnings of libraries go to a file, which is named when the
command fails.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from gemma_batch.cli.app import say
from gemma_batch.errors import INTERRUPTED

if TYPE_CHECKING:
    from gemma_batch.reporting.progress import Progress

ENDED = "interrupted; what is committed stays, run the same command again to go on"
FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LibraryLog(logging.Handler):
    """Writes log records to a new file, which is made for the first record; `path` is its path."""

    path = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if not self.path:
            number, self.path = tempfile.mkstemp(prefix="gemma-batch-", suffix=".log")
            os.close(number)
        with open(self.path, "a", encoding="utf-8") as file:
            print(self.format(record), file=file)


library_log = LibraryLog()
_word = threading.Lock()  # whoever holds it has the last word


@contextlib.contextmanager
def libraries_quiet() -> Iterator[None]:
    """Within the block, warnings of libraries go to `library_log`, those of ours to stderr."""
    root, ours = logging.getLogger(), logging.getLogger("gemma_batch")
    library_log.setFormatter(logging.Formatter(FORM))
    root.addHandler(library_log)
    logging.captureWarnings(True)
    if logging.lastResort is not None:  # it prints a warning's message, where nothing else does
        ours.addHandler(logging.lastResort)
    try:
        yield
    finally:
        _let_libraries_talk()
        if logging.lastResort is not None:
            ours.removeHandler(logging.lastResort)


def _let_libraries_talk() -> None:
    logging.captureWarnings(False)
    logging.getLogger().removeHandler(library_log)


@contextlib.contextmanager
def shown(
    every: float, *, verbose: bool = False, phase: str | None = "planning"
) -> Iterator[Progress]:
    """The display of a run's progress, with a line every `every` seconds outside a terminal.

    It begins with `phase` at once, because imports take a second before the run itself says so.
    Within the block, the first SIGTERM or SIGINT says "stopping" at once and raises
    KeyboardInterrupt. A later one ends the process at once, with exit code 130.
    """
    from gemma_batch.driver.interrupts import STOPPING, stoppable
    from gemma_batch.reporting.progress import Snapshot, make_progress

    if verbose:
        _let_libraries_talk()
    progress = make_progress(every)

    def stopping() -> None:
        progress.close()
        say(f"{STOPPING}; a second Ctrl-C ends at once")

    try:
        if phase is not None:
            progress.update(Snapshot(phase=phase))
        with stoppable(stopping, _end_at_once):
            yield progress
    finally:
        progress.close()


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, within the block."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_interrupted() -> NoReturn:
    """End the process with exit code 130, after a last sentence: no library has another word."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _last_word()
    sys.exit(INTERRUPTED)


def _end_at_once() -> NoReturn:
    _last_word()
    os._exit(INTERRUPTED)


def _last_word() -> None:
    if not _word.acquire(blocking=False):
        return  # it was said, in the other thread
    say(ENDED)
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
