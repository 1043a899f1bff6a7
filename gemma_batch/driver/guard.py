"""Guards an output while a driver works on it: opens it, holds its lease, handles signals."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from gemma_batch.committing.lease import Lease
from gemma_batch.committing.manifest import KEY as MANIFEST
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.origin import find_run
from gemma_batch.errors import OutputError, StorageError
from gemma_batch.reporting.progress import Progress
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store

_asked_to_stop = threading.Event()


def open_output(url: str) -> Store:
    """The store of an output. Raises `OutputError` when the store cannot be read."""
    store = open_store(url)
    try:
        with contextlib.suppress(FileNotFoundError):
            store.read(MANIFEST)
    except StorageError as err:
        raise _unusable(store, err) from err
    return store


def settled_run(store: Store) -> Manifest | None:
    """The manifest of an output; None for an empty output.

    Raises `OutputError` when the output cannot be read, or holds data without a manifest.
    """
    try:
        return find_run(store)
    except StorageError as err:
        raise _unusable(store, err) from err


def _unusable(store: Store, err: StorageError) -> OutputError:
    return OutputError(
        f"output.path {store.url!r} cannot be used: {err}. Check the path and the permissions of "
        "the credentials in use"
    )


@contextlib.contextmanager
def leased(store: Store, show: Progress) -> Iterator[threading.Event]:
    """Hold the output's lease, and turn SIGTERM into KeyboardInterrupt while it is held.

    Yields an event that is set when another driver takes over the lease. Raises `LeaseError` when
    a living driver holds the lease, `OutputError` when the output cannot be written.
    """
    _asked_to_stop.clear()
    lease = Lease(store, on_lost=show.say)
    try:
        lease.acquire(say=show.say)  # the first write, so it shows whether writing is allowed
    except StorageError as err:
        raise _unusable(store, err) from err
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ours = interruptible()
    try:
        yield lease.lost
    finally:
        if ours:
            for number, handler in previous.items():
                signal.signal(number, handler)
        lease.release()


def interruptible() -> bool:
    """Turn SIGTERM and SIGINT into KeyboardInterrupt; returns False outside the main thread.

    Python lets only the main thread of a process set signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell script starts background processes with SIGINT ignored. It has to stay ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    return True


def check_not_interrupted() -> None:
    """Raise KeyboardInterrupt when a signal has asked for it before.

    The first KeyboardInterrupt may have been lost: when the signal arrives inside a destructor or
    a callback, Python only prints the exception.
    """
    if _asked_to_stop.is_set():
        raise KeyboardInterrupt


def _interrupt(signum: int, frame: Any) -> None:
    _asked_to_stop.set()
    raise KeyboardInterrupt
