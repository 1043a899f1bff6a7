"""Guards an output while a driver works on it: holds its lease, handles signals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from gemma_batch.committing.lease import Lease
from gemma_batch.committing.outlook import unusable
from gemma_batch.driver.interrupts import STOPPING, stoppable
from gemma_batch.errors import StorageError
from gemma_batch.reporting.progress import Progress
from gemma_batch.storage.interfaces import Store


@contextlib.contextmanager
def leased(store: Store, show: Progress) -> Iterator[threading.Event]:
    """Hold the output's lease, and turn SIGTERM into KeyboardInterrupt while it is held.

    Yields an event that is set when another driver takes over the lease. Raises `LeaseError` when
    a living driver holds the lease, `OutputError` when the output cannot be written.
    """
    with stoppable(lambda: show.say(STOPPING)):
        lease = Lease(store, on_lost=show.say)
        try:
            lease.acquire(say=show.say)  # the first write, so it shows whether writing is allowed
        except StorageError as err:
            raise unusable(store, err) from err
        try:
            yield lease.lost
        finally:
            lease.release()
