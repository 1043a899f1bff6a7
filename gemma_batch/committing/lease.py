"""The lease: keeps a second driver from wasting GPUs on the same output (driver).

The lease only avoids double work. The safety of the data does not depend on the lease, because
parts are create-only. Clocks are never compared. The holder counts up a beat number, and a
waiting driver watches that number. When the number changes, the holder is alive and the waiting
driver is refused. The waiting driver takes over the lease in two cases: the number stands still
for `ttl` seconds, or the holder was a process of this same machine and that process is gone. A
process in another container of this machine cannot be looked for, so it is watched.
"""

from __future__ import annotations

import contextlib
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

from gemma_batch.errors import LeaseError, StorageError
from gemma_batch.storage.interfaces import Store

logger = logging.getLogger(__name__)
KEY = "_run/lease.json"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    """The space in which this process's id means something, such as 'pid:[4026531836]'.

    Containers share the name of the host and its boot id, but not their process ids. Returns ""
    where the space is unknown, or where /proc shows the processes of another space.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int] | None:
    """State and start of a process, in clock ticks since boot; None when it does not exist.

    A start in seconds since 1970 would move when somebody sets the clock. Raises OSError or
    ValueError where /proc does not tell.
    """
    try:
        # The second field is the name in brackets, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def _identity() -> dict[str, Any]:
    """The facts by which a later start of the same machine can tell whether this process lives."""
    pid = os.getpid()
    record: dict[str, Any] = {"host": socket.gethostname(), "pid": pid, "boot": _boot_id()}
    with contextlib.suppress(OSError, ValueError, IndexError):
        if (space := _pid_space()) and (found := _process(pid)) is not None:
            record.update(pid_space=space, started_ticks=found[1])
    return record


def _process_is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder is certain to exist no longer: it ran where this process can look.

    That is on this machine, since its last boot, in the same space of process ids. Records of older
    versions do not name the space, so their holders are watched like those of other machines.
    """
    mine = _identity()
    known = ("host", "boot", "pid_space")
    if any(not mine.get(name) or holder.get(name) != mine[name] for name in known):
        return False
    try:
        found = _process(int(holder["pid"]))
        return found is None or found[0] in "ZX" or found[1] != int(holder["started_ticks"])
    except (OSError, KeyError, ValueError, TypeError, IndexError):
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
        record = {
            "owner": self._owner,
            **_identity(),
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
