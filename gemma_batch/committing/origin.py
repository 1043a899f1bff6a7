"""Origin: refuses an output that holds parts of another run (driver, `status`, `report`).

The receipt in a part's footer names the run of the part: the id in the manifest. The checks, and
when they are made:

- Before anything is started, and for the price of one listing: an output without a manifest must
  hold no data, and each part must be one of the planned units.
- Before anything is started: the receipts that `_run/receipts` has copies of, up to `UNKNOWN`
  footers of parts that have no copy there (a part that somebody put there has none), and `KNOWN`
  footers of the others. To read every footer of 100,000 parts takes minutes.
- Before the report is written: the receipt of every part.

Parts of older versions name no run. They are accepted where the manifest is as old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from gemma_batch.committing.ledger import Ledger, Receipt
from gemma_batch.committing.manifest import KEY, Manifest, load_manifest
from gemma_batch.errors import MismatchError, OutputError
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import ERRORS, RESULTS, PartKey
from gemma_batch.units.unit import Unit

UNKNOWN, KNOWN = 512, 16  # footers that are read before a start: without and with a copied receipt
T = TypeVar("T")


def find_run(store: Store) -> Manifest | None:
    """The manifest of an output; None for an output that holds neither a run nor data.

    Raises `OutputError` for data without a manifest, and for a manifest that cannot be read.
    """
    manifest = load_manifest(store)
    if manifest is not None:
        return manifest
    found = [path for folder in (RESULTS, ERRORS) for path in store.list(folder)]
    found = [path for path in found if not path.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not found:
        return None
    # Another driver may have put its manifest and its first parts since the first look.
    manifest = load_manifest(store)
    if manifest is None:
        raise OutputError(
            f"{store.url!r} holds {len(found):,} data file(s), for example {found[0]!r}, but no "
            f"{KEY!r} that tells which run they are of: answers of two runs would be mixed. "
            "Restore _run/ (from a backup, or from older versions of the bucket), move these "
            "files away, or name a new output.path"
        )
    return manifest


def check_parts(
    store: Store, manifest: Manifest, units: Iterable[Unit], listed: Mapping[PartKey, str]
) -> dict[PartKey, Receipt]:
    """The checks before anything is started (see the module's docstring).

    `units` are all units of the first run, `listed` the committed parts. Returns the receipts that
    had to be read. Raises `MismatchError` for a part of another run, `OutputError` for a file that
    is named like a part and is none.
    """
    check_planned(units, listed)
    ledger = Ledger(store)
    copied = ledger.copies(listed)
    check_receipts(manifest, copied, listed)
    unknown = [key for key in listed if key not in copied]
    chosen = [*_spread(unknown, UNKNOWN), *_spread(list(copied), KNOWN)]
    footers = ledger.footers(chosen, listed)
    check_receipts(manifest, footers, listed)
    return {**copied, **footers}


def check_planned(units: Iterable[Unit], listed: Mapping[PartKey, str]) -> None:
    """Raise `MismatchError` when one of the listed parts is of no unit of the run."""
    planned = {unit.key for unit in units}
    if strange := [path for key, path in listed.items() if key.base not in planned]:
        raise MismatchError(
            f"{_some(strange)} of no unit of this run: copied from another run, or its name was "
            "changed. Move it away and start again"
        )


def check_receipts(
    manifest: Manifest, receipts: Mapping[PartKey, Receipt], listed: Mapping[PartKey, str]
) -> None:
    """Raise `MismatchError` when one of the receipts is of a part of another run."""
    allowed = {manifest.run} if manifest.names_parts else {manifest.run, None}
    strange = [
        listed[key] for key, receipt in receipts.items() if receipt.get("run") not in allowed
    ]
    if strange:
        raise MismatchError(
            f"{_some(strange)} of another run than this output ({manifest.run!r}): "
            "its answers may be of another model, prompt or input. Move it away and start again; "
            "its rows are answered anew"
        )


def _some(paths: Sequence[str]) -> str:
    return (
        f"{paths[0]!r} is a part"
        if len(paths) == 1
        else (f"{len(paths):,} parts, for example {paths[0]!r}, are")
    )


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]
