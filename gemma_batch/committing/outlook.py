"""Outlook: opens an output for a start, and says what the start finds there (driver, laptop).

A run and the command `plan` open an output by the same code, so `plan` refuses an output that a run
would refuse. Nothing here writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gemma_batch.committing.generations import retry_summary
from gemma_batch.committing.lease import describe, read_lease
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.manifest import KEY as MANIFEST
from gemma_batch.committing.manifest import Fingerprint, Manifest, check_same
from gemma_batch.committing.origin import check_parts, find_run
from gemma_batch.errors import OutputError, StorageError
from gemma_batch.storage.fs import is_s3, open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.patience import is_certain
from gemma_batch.units.unit import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a start finds in an output.

    `state` is new (no run is there), resumes (units are left), complete, or unknown: this machine
    cannot reach the output, and `why` says so. `rows` and `units` are planned, `rows_done` and
    `units_done` committed. `open_retry` is the number of rows of a retry that was not finished.
    `holder` is the driver that holds the lease, alive or not. `new_files` is the number of files
    that a growing input has and the output does not know; the other numbers are without them.
    """

    state: Literal["new", "resumes", "complete", "unknown"]
    rows: int = 0
    rows_done: int = 0
    units: int = 0
    units_done: int = 0
    open_retry: int = 0
    new_files: int = 0
    holder: str | None = None
    why: str | None = None


def open_output(url: str, *, writes: bool = False) -> Store:
    """The store of an output.

    `writes` says that the caller is going to write. Raises `OutputError` when the store cannot be
    read or, as far as that is seen without a write, cannot be written.
    """
    store = open_store(url)
    try:
        with contextlib.suppress(FileNotFoundError):
            store.read(MANIFEST)
        if writes:
            store.check_writable()
    except StorageError as err:
        raise unusable(store, err) from err
    return store


def settled_run(store: Store) -> Manifest | None:
    """The manifest of an output; None for an empty output.

    Raises `OutputError` when the output cannot be read, or holds data without a manifest.
    """
    try:
        return find_run(store)
    except StorageError as err:
        raise unusable(store, err) from err


def opened_run(url: str) -> tuple[Store, Manifest]:
    """The store and the manifest of an output, to read. Raises `OutputError` when it has no run."""
    store = open_store(url)
    manifest = find_run(store)
    if manifest is None:
        raise OutputError(
            f"{url!r} holds no run (there is no '{store.url}/{MANIFEST}'): name the output.path of "
            "a job that was started, or its spec"
        )
    return store, manifest


def unusable(store: Store, err: StorageError) -> OutputError:
    """The error for people when the storage of an output fails."""
    return OutputError(
        f"output.path {store.url!r} cannot be used: {err}. Check the path and the permissions of "
        "the credentials in use"
    )


def known_inputs(url: str) -> tuple[Shard, ...]:
    """The input files that the output at `url` has already; () for one that cannot be read now.

    `look` says why the output cannot be read.
    """
    try:
        manifest = settled_run(open_store(url))
    except (OutputError, StorageError):
        return ()
    return manifest.shards if manifest is not None else ()


def look(
    url: str,
    asked: Fingerprint,
    unknown: Collection[str] = (),
    *,
    touched: Sequence[Shard] = (),
    grows: bool = False,
) -> Outlook:
    """What a start of a job with the fingerprint `asked` would find in the output at `url`.

    `unknown` are fields of the fingerprint that this machine does not know. `touched` are input
    files with another etag and the same contents. With `grows`, the input may have new files.
    Raises `OutputError` and `MismatchError` as a run would. When an output in s3:// cannot be
    reached from here, the credentials for it may be on the cluster alone, so the state is unknown.
    """
    try:
        store = open_output(url, writes=True)
        manifest = settled_run(store)
        if manifest is None:
            return Outlook(state="new", holder=_holder(store))
        manifest = manifest.with_shards(touched)
        check_same(manifest, asked, store.url, unknown, grows=grows)
        new = len(asked.inputs.keys() - manifest.fingerprint.inputs.keys())
        return replace(_standing(store, manifest), new_files=new)
    except (OutputError, StorageError) as err:
        failed = err if isinstance(err, StorageError) else err.__cause__
        if is_s3(url) and isinstance(failed, StorageError) and not is_certain(failed):
            return Outlook(state="unknown", why=str(failed))
        if isinstance(err, StorageError):
            raise unusable(open_store(url), err) from err
        raise


def _standing(store: Store, manifest: Manifest) -> Outlook:
    units, done = manifest.units(store), Ledger(store).committed()
    check_parts(store, manifest, units, done)
    left = Ledger(store).remaining(units, done)
    rows = sum(unit.expected for unit in units)
    return Outlook(
        state="resumes" if left else "complete",
        rows=rows,
        rows_done=rows - sum(unit.expected for unit in left),
        units=len(units),
        units_done=len(units) - len(left),
        open_retry=retry_summary(store, done).get("rows", 0),
        holder=_holder(store),
    )


def _holder(store: Store) -> str | None:
    lease = read_lease(store)
    return describe(lease) if lease and not lease.get("released") else None
