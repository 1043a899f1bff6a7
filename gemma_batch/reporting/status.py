"""Status: the state of an output, on any machine that can read the output; needs no cluster.

Speeds come from the receipts of the last stretch of work without a standstill. Only the clocks of
the workers count, because the clock of the reading machine may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gemma_batch.committing.generations import retry_summary
from gemma_batch.committing.lease import describe, read_lease
from gemma_batch.committing.ledger import Ledger, Receipt
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.origin import check_planned, check_receipts
from gemma_batch.committing.outlook import opened_run
from gemma_batch.committing.reuse import worked
from gemma_batch.reporting.alerts import load_alerts
from gemma_batch.reporting.looking import page_rows
from gemma_batch.reporting.page import failure_samples, report_page
from gemma_batch.reporting.report import Report, load_report, make_report
from gemma_batch.reporting.spending import load_spending
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey
from gemma_batch.texts import moment

STANDSTILL = 5.0  # seconds without a running unit that separate two stretches of work


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of an output.

    `state` is complete, held (a driver has the lease) or stopped. `rows` and `units` count planned
    rows and units; all other counts are of committed rows and units. Speeds are of the last stretch
    of work. When the output is complete, speeds are of the last run. `seconds_left` is None when no
    driver works on the output. `cost`, `alerts`, `increments`, `budget`, `incomplete` and `why` are
    the same as in the report.
    """

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
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    seconds_left: float | None = None
    last_commit: str | None = None
    device_hours: float = 0.0
    device_kinds: list[str] = field(default_factory=list)
    cost: float | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)
    increments: list[dict[str, Any]] = field(default_factory=list)
    budget: dict[str, float] = field(default_factory=dict)
    incomplete: bool = False
    why: str | None = None


def status(output: str) -> Status:
    """The state of an output now.

    Raises `OutputError` when the output holds no run, `MismatchError` when it holds a part of
    another run, `StorageError` when storage does not answer.
    """
    store, manifest = opened_run(output)
    listed = Ledger(store).committed()
    found, receipts = _current(output, store, manifest, listed)
    pace = _pace(receipts.values())
    holder: dict[str, Any] = read_lease(store) or {}
    held = bool(holder) and not holder.get("released")
    pending = retry_summary(store, listed)
    done = found.complete and not pending.get("units")
    left = pending.get("rows") or found.rows - found.answered - found.failed
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
        rows_per_second=pace.rows_per_second or found.rows_per_second,
        tokens_per_second=pace.tokens_per_second or found.tokens_per_second,
        seconds_left=round(left * pace.seconds / pace.rows, 1)
        if held and not done and pace.rows
        else None,
        last_commit=moment(pace.last) if pace.last else None,
        device_hours=found.device_hours,
        device_kinds=found.device_kinds,
        cost=found.cost,
        alerts=found.alerts,
        increments=found.increments,
        budget=found.budget,
        incomplete=found.incomplete and not held,
        why=found.why if not held else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pace:
    rows: int
    tokens: int
    seconds: float
    last: float | None

    @property
    def rows_per_second(self) -> float:
        return round(self.rows / self.seconds, 2) if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return round(self.tokens / self.seconds, 1) if self.seconds else 0.0


def _pace(receipts: Iterable[Receipt]) -> _Pace:
    """The last stretch of work: from the last standstill to the last commit."""
    rows = tokens = 0
    begin = last = None
    known = [receipt for receipt in receipts if "started" in receipt]
    for receipt in sorted(known, key=lambda one: float(one["finished"]), reverse=True):
        if begin is not None and receipt["finished"] < begin - STANDSTILL:
            break
        last = receipt["finished"] if last is None else last
        begin = receipt["started"] if begin is None else min(begin, receipt["started"])
        rows += worked(receipt, "rows")
        tokens += worked(receipt, "completion_tokens")
    seconds = last - begin if last is not None and begin is not None else 0.0
    return _Pace(rows=rows, tokens=tokens, seconds=seconds, last=last)


def current_page(output: str, samples: int | None = None) -> str:
    """The page report.html as it is now, also for a run that has not ended.

    `samples` is the number of rows to show (default: the run's `report.samples`). Raises
    `OutputError` when the output holds no run.
    """
    store, manifest = opened_run(output)
    listed = Ledger(store).committed()
    found, read = _current(output, store, manifest, listed)
    receipts = list((read or Ledger(store).receipts(listed)).values())
    if samples is None:
        samples = int(manifest.spec.get("report", {}).get("samples", 0))
    shown = page_rows(store, manifest, samples)
    return report_page(found, receipts, failure_samples(store, receipts), manifest.spec, shown)


def current_report(output: str) -> Report:
    """The report as it is now: the saved report, or totals of the parts that are committed so far.

    Raises the errors of `status`.
    """
    store, manifest = opened_run(output)
    return _current(output, store, manifest, Ledger(store).committed())[0]


def _current(
    output: str, store: Store, manifest: Manifest, listed: Mapping[PartKey, str]
) -> tuple[Report, Mapping[PartKey, Receipt]]:
    """The report as it is now, and the receipts if they had to be read (otherwise {}).

    `listed` are the committed parts. Raises `MismatchError` when a part is of another run.
    """
    saved = load_report(store)
    same = saved is not None and (saved.parts, saved.rows) == (len(listed), manifest.rows)
    if saved is not None and (saved.complete or saved.incomplete) and same:
        return saved, {}
    units = manifest.units(store)
    check_planned(units, listed)
    receipts = Ledger(store).receipts(listed)
    check_receipts(manifest, receipts, listed)
    alerts, spending = load_alerts(store), load_spending(store)
    report = make_report(manifest, output, len(units), receipts, alerts=alerts, spending=spending)
    return report, receipts
