"""Guards an output while a driver works on it: holds its lease, handles signals."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from gemma_batch.committing.lease import Lease
from gemma_batch.committing.outlook import unusable
from gemma_batch.errors import StorageError
from gemma_batch.reporting.progress import Progress
from gemma_batch.storage.interfaces import Store

_asked_to_stop = threading.Event()


@contextlib.contextmanager
def leased(store: Store, show: Progress) -> Iterator[threading.Event]:
    """Hold the output's lease, and turn SIGTERM into KeyboardInterrupt while it is held.

    Yields an event that is set when another driver takes over the lease. Raises `LeaseError` when
    a living driver holds the lease, `OutputError` when the output cannot be written.
    """
    if _in_main_thread():
        _asked_to_stop.clear()
    lease = Lease(store, on_lost=show.say)
    try:
        lease.acquire(say=show.say)  # the first write, so it shows whether writing is allowed
    except StorageError as err:
        raise unusable(store, err) from err
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ours = interruptible()
    try:
        yield lease.lost
    finally:
        if ours:
            for number, handler in previous.items():
                if handler is not None:  # None: it was not set by Python, which cannot restore it
                    signal.signal(number, handler)
        lease.release()


def interruptible() -> bool:
    """Turn SIGTERM and SIGINT into KeyboardInterrupt; returns False outside the main thread.

    Python lets only the main thread of a process set signal handlers.
    """
    if not _in_main_thread():
        return False
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell script starts background processes with SIGINT ignored. It has to stay ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    return True


def check_not_interrupted() -> None:
    """Raise KeyboardInterrupt in the main thread when a signal has asked for it before.

    The first KeyboardInterrupt may have been lost: when the signal arrives inside a destructor or
    a callback, Python only prints the exception.
    """
    if _asked_to_stop.is_set() and _in_main_thread():
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(signum: int, frame: Any) -> None:
    _asked_to_stop.set()
    raise KeyboardInterrupt
