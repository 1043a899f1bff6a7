"""The report: totals, speed and failures of a run, from the receipts of its parts.

A run that was stopped and resumed gets the same totals as a run without a stop.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gemma_batch.committing.ledger import Receipt
from gemma_batch.committing.manifest import Manifest
from gemma_batch.committing.reuse import REUSED, worked
from gemma_batch.reporting.accounts import RouteFacts, limit_share, make_accounts
from gemma_batch.reporting.alerts import Alert
from gemma_batch.reporting.cost import cost_of
from gemma_batch.reporting.hours import device_kinds
from gemma_batch.reporting.spending import Spending
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey

KEY = "_run/report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Totals of an output.

    `rows` counts planned rows; `answered` and `failed` count committed rows, after retries. Of the
    answers, `reused` were taken from trials; no count of the last run's work has them.
    `refused_tokens` are the tokens of answers without the right shape, and of their prompts; the
    other counts of tokens are those of answers.
    `seconds` is the wall time of the last run; `first_commit` is in seconds since its start.
    Speeds are per second of `seconds`, and 0 when the last run had nothing to do. The steady speed
    counts from the moment when the first engine was ready. `engine_time` are shares of the last
    run's engine-seconds (see `accounts`). `limit_share` is the last run's speed as a share of the
    hardware's limit. `predicted` is the estimate of the plan, None for an input that has grown.
    `device_hours` counts hours of GPUs (of engines on a cluster without GPUs); `device_kinds` are
    "gpu", "cpu" or both. `device_hours`, `cost` and `alerts` count all runs on the output. `nodes`
    are the nodes of the last run that could not start an engine or reach the storage: name, number
    of failures, newest cause, and whether they were left alone at the end.
    `increments` has the first run (number 0) and each addition of new files to a growing input:
    when it was planned, its files, rows and units, and how many rows are answered and failed.
    `budget` is the budget of the last run, as far as it was set (`gpu_hours`, `cost`).
    `incomplete`: the last run ended in order before all its rows were done, and `why` says why.
    """

    name: str
    output: str
    complete: bool
    rows: int
    answered: int
    failed: int
    reused: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    refused_tokens: int = 0
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    units: int = 0
    units_committed: int = 0
    parts: int = 0
    generations: int = 0
    seconds: float = 0.0
    first_commit: float | None = None
    run_rows: int = 0
    rows_per_second: float = 0.0
    steady_rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    created: str = ""
    engine_time: dict[str, float] = field(default_factory=dict)
    limit_share: float | None = None
    predicted: dict[str, Any] | None = None
    device_hours: float = 0.0
    device_kinds: list[str] = field(default_factory=list)
    cost: float | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    increments: list[dict[str, Any]] = field(default_factory=list)
    budget: dict[str, float] = field(default_factory=dict)
    incomplete: bool = False
    why: str | None = None

    def to_json(self) -> str:
        """The report as the JSON that `report --json` prints."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts that only the driver of a run knows: start and end (Unix seconds), its receipts.

    `nodes` are the nodes with trouble (see `Report.nodes`). `why` says why the run ended in order
    before all its rows were done; None when they are done.
    """

    started: float
    finished: float
    receipts: tuple[Receipt, ...] = ()
    routes: Mapping[str, RouteFacts] = field(default_factory=dict)
    nodes: tuple[Mapping[str, Any], ...] = ()
    why: str | None = None


def make_report(
    manifest: Manifest,
    output: str,
    units: int,
    receipts: Mapping[PartKey, Receipt],
    facts: RunFacts | None = None,
    *,
    alerts: Sequence[Alert] = (),
    spending: Spending | None = None,
) -> Report:
    """Add up the receipts of an output. `spending` is the record of an output with a budget.

    For each unit, only the failures in its newest part count. `units` counts the planned units.
    Without `facts` the report has no times and speeds of a run.
    """
    latest: dict[tuple[int, int, str | None], PartKey] = {}
    for key in receipts:
        place = (key.shard, key.first_row, key.route)
        if place not in latest or latest[place].generation < key.generation:
            latest[place] = key
    failures: Counter[str] = Counter()
    for key in latest.values():
        failures.update(receipts[key]["failures"])
    seconds = facts.finished - facts.started if facts else 0.0
    mine = facts.receipts if facts else ()
    finished = [r["finished"] for r in mine]
    spending = spending or Spending()
    spent = cost_of(receipts.values(), spending.workers)
    run_tokens = sum(worked(receipt, "completion_tokens") for receipt in mine)
    run_rows = sum(worked(receipt, "rows") for receipt in mine)
    return Report(
        name=manifest.name,
        output=output,
        complete=sum(1 for key in receipts if key.generation == 0) == units,
        rows=manifest.rows,
        answered=_sum(receipts.values(), "answered"),
        failed=sum(failures.values()),
        reused=sum(int(receipt.get(REUSED, 0)) for receipt in receipts.values()),
        failures=dict(failures.most_common()),
        prompt_tokens=_sum(receipts.values(), "prompt_tokens"),
        completion_tokens=_sum(receipts.values(), "completion_tokens"),
        cached_tokens=_sum(receipts.values(), "cached_tokens"),
        refused_tokens=sum(r.get("refused_tokens", 0) for r in receipts.values()),
        routes=_by_route(receipts.values()),
        units=units,
        units_committed=sum(1 for key in receipts if key.generation == 0),
        parts=len(receipts),
        generations=max((key.generation for key in receipts), default=0),
        seconds=round(seconds, 3),
        first_commit=round(min(finished) - facts.started, 3) if facts and finished else None,
        run_rows=run_rows,
        rows_per_second=round(run_rows / seconds, 2) if seconds else 0.0,
        steady_rows_per_second=_steady(mine),
        tokens_per_second=round(run_tokens / seconds, 1) if seconds else 0.0,
        created=manifest.created,
        engine_time=make_accounts(mine, facts.started, facts.routes).shares() if facts else {},
        limit_share=limit_share(mine, facts.started, facts.routes) if facts else None,
        predicted=None if manifest.increments else manifest.facts.get("predicted"),
        device_hours=spent.hours,
        device_kinds=device_kinds(receipts.values()),
        cost=spent.price,
        alerts=[asdict(alert) for alert in alerts],
        nodes=[dict(node) for node in facts.nodes] if facts else [],
        increments=_by_increment(manifest, receipts, latest.values()),
        budget=spending.budget.model_dump(exclude_none=True),
        incomplete=facts is not None and facts.why is not None,
        why=facts.why if facts else None,
    )


def _by_increment(
    manifest: Manifest, receipts: Mapping[PartKey, Receipt], latest: Iterable[PartKey]
) -> list[dict[str, Any]]:
    """The counts of the first run and of each increment; [] for an input that has not grown.

    `latest` are the newest parts of all units.
    """
    if not manifest.increments:
        return []
    later = manifest.increments
    number = {shard.number: one.number for one in later for shard in (*one.shards, *one.staged)}
    rows = manifest.rows - sum(one.rows for one in later)
    files = len(manifest.shards) - sum(len(one.shards) for one in later)
    plans = [(0, manifest.created, files, rows)]
    plans += [(one.number, one.created, len(one.shards), one.rows) for one in later]
    found = [
        {"number": n, "created": created, "files": files, "rows": rows, "answered": 0, "failed": 0}
        for n, created, files, rows in plans
    ]
    for key, receipt in receipts.items():
        found[number.get(key.shard, 0)]["answered"] += receipt["answered"]
    for key in latest:
        found[number.get(key.shard, 0)]["failed"] += receipts[key]["failed"]
    return found


def _steady(receipts: Sequence[Receipt]) -> float:
    # A unit without a request is committed before the first engine is ready.
    ready = [receipt["engine_ready"] for receipt in receipts if receipt["engine_ready"]]
    if not ready:
        return 0.0
    passed = max(receipt["finished"] for receipt in receipts) - min(ready)
    rows = sum(worked(receipt, "rows") for receipt in receipts)
    return round(rows / passed, 2) if passed > 0 else 0.0


def _sum(receipts: Iterable[Receipt], name: str) -> int:
    return sum(int(receipt[name]) for receipt in receipts)


def _by_route(receipts: Iterable[Receipt]) -> dict[str, dict[str, Any]]:
    routes: dict[str, dict[str, Any]] = {}
    for receipt in receipts:
        route = routes.setdefault(
            receipt["route"],
            {"model": receipt["model"], "units": 0, "answered": 0, "completion_tokens": 0},
        )
        route["units"] += 1
        route["answered"] += receipt["answered"]
        route["completion_tokens"] += receipt["completion_tokens"]
    return routes


def save_report(store: Store, report: Report) -> None:
    """Put `_run/report.json`, or replace the report of an earlier run. Raises `StorageError`."""
    store.put(KEY, report.to_json().encode())


def load_report(store: Store) -> Report | None:
    """The report of the last run that ended; None when no run has ended."""
    try:
        return Report(**json.loads(store.read(KEY)))
    except FileNotFoundError:
        return None
