"""Turns: engines that share something of a node start one after another, across processes.

Several vLLM engines that load on one GPU at once each take the memory that the others allocate
meanwhile for their own, and die or end up with a tiny cache. And several that compile the same
model at once write the same cache, which has been seen to break it (ray-project/ray#55929).
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

POLL_SECONDS = 0.2


@contextlib.asynccontextmanager
async def turn(name: str, unless: Callable[[], bool] | None = None) -> AsyncIterator[None]:
    """Wait until no other process of this user on this node is inside `name`, then be inside.

    When `unless` becomes true while one waits, there is nothing to wait for any more. The operating
    system ends the turn of a process that dies.
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
            # Said explicitly: a forked engine process may hold a copy of the descriptor.
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)
