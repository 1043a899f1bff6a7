"""Status: how an output stands, from anywhere that can read its path; needs no cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gemma_batch.errors import OutputError
from gemma_batch.run.lease import describe, read_lease
from gemma_batch.run.ledger import Ledger
from gemma_batch.run.manifest import load_manifest
from gemma_batch.run.page import failure_samples, report_page
from gemma_batch.run.report import Report, load_report, make_report
from gemma_batch.run.retry import retry_summary
from gemma_batch.storage.fs import Store, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`state`: complete, held (a driver has the lease) or stopped. Counts are of committed rows."""

    name: str
    output: str
    state: Literal["complete", "held", "stopped"]
    holder: str | None
    rows: int
    committed: int
    answered: int
    failed: int
    failures: dict[str, int]
    units: int
    units_committed: int
    open_retry: dict[str, int] = field(default_factory=dict)


def _open(output: str) -> Store:
    store = open_store(output)
    if load_manifest(store) is None:
        raise OutputError(f"{output!r} holds no run (there is no _run/manifest.json)")
    return store


def status(output: str) -> Status:
    """How the output stands now. Raises `OutputError` when it holds no run."""
    store = _open(output)
    found = current_report(output, store)
    holder: dict[str, Any] = read_lease(store) or {}
    held = bool(holder) and not holder.get("released")
    pending = retry_summary(store)
    done = found.complete and not pending.get("units")
    return Status(
        name=found.name,
        output=output,
        state="complete" if done else "held" if held else "stopped",
        holder=describe(holder) if held and not done else None,
        rows=found.rows,
        committed=found.answered + found.failed,
        answered=found.answered,
        failed=found.failed,
        failures=found.failures,
        units=found.units,
        units_committed=found.units_committed,
        open_retry=pending if pending.get("units") else {},
    )


def current_page(output: str) -> str:
    """report.html as of now, also for a run that has not ended. Raises `OutputError`."""
    store = _open(output)
    ledger = Ledger(store)
    receipts = list(ledger.receipts().values())
    return report_page(current_report(output, store), receipts, failure_samples(ledger, receipts))


def current_report(output: str, store: Store | None = None) -> Report:
    """The report as of now: the last run's, or totals of what is committed so far."""
    store = store or _open(output)
    saved = load_report(store)
    manifest = load_manifest(store)
    if manifest is None:
        raise OutputError(f"{output!r} holds no run (there is no _run/manifest.json)")
    ledger = Ledger(store)
    if saved is not None and saved.complete and len(ledger.committed()) == saved.parts:
        return saved
    return make_report(manifest, output, len(manifest.units(store)), ledger.receipts())
