"""An output while a driver works on it: opened, leased, and left in order when asked to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from gemma_batch.errors import OutputError, StorageError
from gemma_batch.run.lease import Lease
from gemma_batch.run.manifest import KEY as MANIFEST
from gemma_batch.run.progress import Progress
from gemma_batch.storage.fs import Store, open_store


def open_output(url: str) -> Store:
    """The output's store. Raises `OutputError` when it can't even be looked at."""
    store = open_store(url)
    try:
        with contextlib.suppress(FileNotFoundError):
            store.read(MANIFEST)
    except StorageError as err:
        raise _unusable(store, err) from err
    return store


def _unusable(store: Store, err: StorageError) -> OutputError:
    return OutputError(
        f"output.path {store.url!r} cannot be used: {err}. Check the path and the permissions of "
        "the credentials in use"
    )


@contextlib.contextmanager
def leased(store: Store, show: Progress) -> Iterator[threading.Event]:
    """Hold the output's lease, and turn SIGTERM into KeyboardInterrupt meanwhile."""
    lease = Lease(store, on_lost=show.say)
    try:
        lease.acquire(say=show.say)  # the first thing that is written, so it tells if we may
    except StorageError as err:
        raise _unusable(store, err) from err
    previous = signal.getsignal(signal.SIGTERM)
    ours = interruptible()
    try:
        yield lease.lost
    finally:
        if ours:
            signal.signal(signal.SIGTERM, previous)
        lease.release()


def interruptible() -> bool:
    """Turn SIGTERM into KeyboardInterrupt, which only a process's main thread can ask for."""
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _interrupt)
    return True


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
