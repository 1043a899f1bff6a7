"""Interrupts: a run that is asked to stop by a signal says at once that it heard (driver).

A signal becomes KeyboardInterrupt in the main thread. The main thread may be inside a long call of
native code, and then the exception comes late. So a thread hears of the signal by itself, from the
byte that Python's signal handler writes (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

STOPPING = "stopping: what is committed stays"
NUMBERS = (signal.SIGTERM, signal.SIGINT)
# A terminal signals the whole process group, and a wrapper may pass the same signal on once more.
SAME_SECONDS = 1.0

# When signals asked, in seconds of the monotonic clock. No Event: its lock could stop a handler.
_asked: list[float] = []
_heard_by: list[_Listener] = []  # at most one: the listener of the outermost block


class _Listener:
    """The thread that hears of signals: it calls `first` once, and `again` at a later signal."""

    def __init__(self, first: Callable[[], object], again: Callable[[], object] | None) -> None:
        self._calls = [first, *([again] if again is not None else [])]
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        last = -SAME_SECONDS
        while number := os.read(self._reader, 1)[0]:
            now = time.monotonic()
            if number in NUMBERS and now - last >= SAME_SECONDS and self._calls:
                last = now
                self._calls.pop(0)()

    def close(self) -> None:
        """Hear of no more signals."""
        signal.set_wakeup_fd(self._before)
        os.write(self._writer, b"\0")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)


@contextlib.contextmanager
def stoppable(
    first: Callable[[], object], again: Callable[[], object] | None = None
) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into KeyboardInterrupt within the block.

    The first signal calls `first`, and a signal more than a second later calls `again`, each in a
    thread and at once. Of blocks inside each other, only the outermost block calls. Does nothing
    outside the main thread: Python lets only the main thread set signal handlers.
    """
    if not in_main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in NUMBERS}
    unraisable = sys.unraisablehook
    outermost = not _heard_by
    if outermost:
        _asked.clear()
        _heard_by.append(_Listener(first, again))
    interruptible()
    sys.unraisablehook = _unless_interrupt(unraisable)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number, handler in previous.items():
            if handler is not None:  # None: it was not set by Python, which cannot restore it
                signal.signal(number, handler)
        if outermost:
            _heard_by.pop().close()


def interruptible() -> None:
    """Set the handlers (again), in the main thread. Libraries such as Ray replace them."""
    if not in_main_thread():
        return
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell script starts background processes with SIGINT ignored. It has to stay ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def check_not_interrupted() -> None:
    """Raise KeyboardInterrupt in the main thread when a signal has asked for it before.

    The first KeyboardInterrupt may have been lost: when the signal arrives inside a destructor or
    a callback, Python drops the exception.
    """
    if _asked and in_main_thread():
        raise KeyboardInterrupt


def in_main_thread() -> bool:
    """Whether this is the main thread of the process."""
    return threading.current_thread() is threading.main_thread()


def _interrupt(signum: int, frame: Any) -> None:
    now = time.monotonic()
    if not _asked or now - _asked[-1] >= SAME_SECONDS:  # otherwise what ends would be interrupted
        _asked.append(now)
        raise KeyboardInterrupt


def _unless_interrupt(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """The hook for exceptions that Python drops, without those that `check_not_interrupted` has."""

    def called(unraisable: Any) -> None:
        if not (unraisable.exc_type is KeyboardInterrupt and _asked):
            hook(unraisable)

    return called
