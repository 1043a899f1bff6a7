"""Clean: removes the files in an output that no run reads again (driver).

Each start removes the leftovers of starts that died. The command `clean` does the same, and removes
the sorted copies of the input that nothing reads again.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma_batch.committing.generations import retry_summary
from gemma_batch.committing.lease import describe, read_lease
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.leftovers import Leftover, copies, leftovers, remove, trial_files
from gemma_batch.committing.manifest import Manifest, load_manifest
from gemma_batch.committing.outlook import open_output
from gemma_batch.committing.taken import FOLDER as TRIES
from gemma_batch.driver.guard import leased
from gemma_batch.errors import OutputError, StorageError
from gemma_batch.reporting.progress import LogProgress, Progress
from gemma_batch.storage.interfaces import Store
from gemma_batch.texts import size_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What `clean` found in an output.

    `files` were removed if `removed` is set, and would be otherwise. `kept` are sorted copies that
    a retry of the failed rows would read, and files of tries. `holder` is the driver that holds the
    lease, alive or not.
    """

    output: str
    removed: bool
    files: list[Leftover]
    kept: list[Leftover]
    holder: str | None = None


def clean(
    output: str,
    *,
    all_copies: bool = False,
    tries: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Cleaned:
    """Remove the files in `output` that no run reads again; with `dry_run` only list them.

    `all_copies` takes the sorted copies of a finished run, too, that a retry would read; `tries`
    takes the answers of tries, which a new run of the job would not ask again. Raises
    `OutputError` when there is no output or, for `all_copies`, no finished run, and `LeaseError`
    when a living driver works on the output or on one of these tries.
    """
    show = progress or LogProgress(10.0)
    store = open_output(output)
    if not store.list("_run"):
        raise OutputError(f"{output!r} holds no run (there is no folder _run): nothing to clean")
    if dry_run:
        return _look(store, output, all_copies=all_copies, tries=tries)
    with leased(store, show):
        for name in {one.key.split("/")[2] for one in trial_files(store) if tries}:
            with leased(open_output(f"{store.url}/{TRIES}/{name}"), show):
                pass  # raises where a driver works on the try
        found = _look(store, output, all_copies=all_copies, tries=tries)
        remove(store, found.files)
    return Cleaned(output=output, removed=True, files=found.files, kept=found.kept)


def _look(store: Store, output: str, *, all_copies: bool, tries: bool) -> Cleaned:
    manifest = load_manifest(store)
    files, kept = leftovers(store, manifest), list[Leftover]()
    if manifest is not None and manifest.staged:
        ledger = Ledger(store)
        units, done = manifest.units(store), ledger.committed()
        left = len(ledger.remaining(units, done)) + retry_summary(store, done).get("units", 0)
        if left and all_copies:
            raise OutputError(
                f"the run in {output!r} is not finished ({left} units are missing), and reads its "
                "sorted copies: run it to its end first, or leave them"
            )
        if not left:
            unread, kept = copies(store, manifest, units, ledger.receipts(done))
            files += unread
            if all_copies:
                files, kept = files + kept, []
    (files if tries else kept).extend(trial_files(store))
    lease = read_lease(store) or {}
    holder = describe(lease) if lease and not lease.get("released") else None
    return Cleaned(output=output, removed=False, files=files, kept=kept, holder=holder)


def sweep(store: Store, manifest: Manifest, show: Progress) -> None:
    """Remove what starts that died left behind.

    Storage that refuses it does not stop the run: the files are in nobody's way.
    """
    try:
        found = leftovers(store, manifest)
        remove(store, found)
    except StorageError as err:
        show.say(f"files of starts that died were left where they are: {err}")
        return
    if found:
        size = size_text(sum(one.bytes for one in found))
        show.say(f"removed {len(found):,} file(s) of starts that died ({size})")
