"""Turns: lets engines on one node start one after another; runs in each GPU actor.

Two reasons. Engines that start on one GPU at the same time measure the GPU's free memory while the
other engines allocate theirs; each engine counts this memory as used by itself, and then dies or
gets a tiny KV cache. Engines that compile the same model at the same time write the same files of
vLLM's compile cache, and this has broken the cache (ray-project/ray#55929).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

POLL_SECONDS = 0.2  # between two tries to get the lock


@contextlib.asynccontextmanager
async def turn(name: str, unless: Callable[[], bool] | None = None) -> AsyncIterator[None]:
    """An async context that one process at a time may enter, for each `name`, user and node.

    Entering waits until no other process is in the context of this name. The wait also ends when
    `unless()` returns true; then several processes may be in the context together. The operating
    system ends the turn of a process that dies. Raises `OSError` when the lock file in the
    temporary folder cannot be opened.
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name)
    path = Path(tempfile.gettempdir()) / f"gemma-batch-{os.getuid()}-{plain}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        while unless is None or not unless():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            # Closing the file would not be enough: a forked engine process may hold a copy of the
            # descriptor, and the copy would keep the lock.
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)
