"""The lease: keeps a second driver from wasting GPUs on the same output (driver).

The lease only avoids double work. The safety of the data does not depend on the lease, because
parts are create-only. Clocks are never compared. The holder counts up a beat number, and a
waiting driver watches that number. When the number changes, the holder is alive and the waiting
driver is refused. The waiting driver takes over the lease in two cases: the number stands still
for `ttl` seconds, or the holder was a process of this same machine and that process is gone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from gemma_batch.errors import LeaseError, StorageError
from gemma_batch.storage.interfaces import Store

logger = logging.getLogger(__name__)
KEY = "_run/lease.json"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, since its last boot, and exists no longer."""
    if holder.get("host") != socket.gethostname() or holder.get("boot") != _boot_id():
        return False
    try:
        process = psutil.Process(int(holder["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(abs(process.create_time() - float(holder["process_started"])) > 2)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, ValueError, TypeError):
        return False


class Lease:
    """The lease of one output, held from `acquire` to `release`.

    A thread raises the beat number every `beat` seconds. A holder whose number stands still for
    `ttl` seconds counts as gone. When another driver takes over the lease, `lost` is set and
    `on_lost` is called once with a sentence that names the new holder.
    """

    def __init__(
        self,
        store: Store,
        *,
        beat: float = 10.0,
        ttl: float = 30.0,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self.lost = threading.Event()
        self._store = store
        self._beat, self._ttl, self._on_lost = beat, ttl, on_lost
        self._owner = uuid.uuid4().hex
        self._number = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, *, say: Callable[[str], None] = logger.info) -> None:
        """Take the lease; may take `ttl` seconds while another holder is watched.

        Raises `LeaseError` when a living driver holds the lease, `StorageError` when storage fails.
        """
        if not self._store.create(KEY, self._record()):
            self._take_over(say)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _take_over(self, say: Callable[[str], None]) -> None:
        holder = read_lease(self._store) or {}
        if not holder.get("released") and not _process_is_gone(holder):
            say(
                f"the output is held by {describe(holder)}; "
                f"watching for up to {self._ttl:g} s whether it is alive"
            )
            deadline = time.monotonic() + self._ttl
            while time.monotonic() < deadline:
                time.sleep(min(1.0, self._beat / 4))
                now = read_lease(self._store) or {}
                if now.get("released"):
                    break
                if (now.get("owner"), now.get("beat")) != (holder.get("owner"), holder.get("beat")):
                    raise LeaseError(
                        f"another driver is working on this output ({describe(now)}): wait for it "
                        "or stop it; two drivers would pay twice"
                    )
        self._store.put(KEY, self._record())
        time.sleep(min(1.0, self._beat / 4))  # when two drivers take over at once, the last wins
        holder = read_lease(self._store) or {}
        if holder.get("owner") != self._owner:
            raise LeaseError(f"another driver took over this output first ({describe(holder)})")

    def _record(self, **extra: Any) -> bytes:
        process = psutil.Process()
        record = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": process.create_time(),
            "boot": _boot_id(),
            "beat": self._number,
            "beat_seconds": self._beat,
            **extra,
        }
        return json.dumps(record).encode()

    def _keep(self) -> None:
        while not self._stop.wait(self._beat):
            try:
                holder = read_lease(self._store) or {}
                if holder.get("owner") != self._owner:
                    self._lose(describe(holder))
                    return
                self._number += 1
                self._store.put(KEY, self._record())
            except StorageError as err:
                # Another driver may now take over. The cost is double work, never lost data.
                logger.warning("the lease could not be renewed: %s", err)

    def _lose(self, by: str) -> None:
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost(f"the lease of this output was taken over by {by}")

    def release(self) -> None:
        """Stop the beat and mark the lease as released.

        Raises no `StorageError`: without the mark the lease is free after `ttl` seconds anyway.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost.is_set():
            try:
                self._store.put(KEY, self._record(released=True))
            except StorageError as err:
                logger.warning("the lease could not be released: %s", err)


def read_lease(store: Store) -> dict[str, Any] | None:
    """The lease record; None when there is none, {} when it is no JSON object."""
    try:
        record = json.loads(store.read(KEY))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def describe(holder: dict[str, Any]) -> str:
    """The holder in words: its process and its host."""
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')!r}"
