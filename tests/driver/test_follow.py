"""Following a run: what is shown is never less than what is committed, and what ends it."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.committing.ledger import RECEIPTS
from gemma_batch.driver.budget import QUIET_LOOKS, BudgetWatch
from gemma_batch.driver.follow import RECEIPTS_KEPT, Follower, ReceiptLog, fill
from gemma_batch.errors import GemmaBatchError, LeaseError, StoppedError
from gemma_batch.reporting.alerts import load_alerts
from gemma_batch.reporting.progress import Snapshot, Speed
from gemma_batch.spec import Budget, Policy
from gemma_batch.storage.fs import open_store


class Said:
    """Keeps what a run shows and counts, in the place of a terminal and of Ray's metrics."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.alerts: list[str] = []
        self.done = 0
        self.budget: BudgetWatch | None = None

    def update(self, snapshot: Snapshot) -> None:
        self.done = snapshot.done

    def say(self, message: str) -> None:
        self.lines.append(message)

    def alert(self, name: str) -> None:
        self.alerts.append(name)

    def close(self) -> None:
        pass


def worker(route: str = "all", **numbers: Any) -> dict[str, Any]:
    usual = {
        "route": route,
        "answered": 0,
        "failed": 0,
        "failures": {},
        "completion_tokens": 0,
        "engine_starts": 1,
        "in_flight": 0,
        "oldest_seconds": 0.0,
        "memory_share": 0.0,
        "silent_seconds": 0.0,
        "gone": False,
        "devices": 1.0,
        "price": None,
        "held_seconds": 10.0,
        "ready_seconds": 5.0,
        "in_hand": 0,
    }
    return {**usual, **numbers}


def receipt(rows: int, route: str = "all") -> dict[str, Any]:
    return {"route": route, "rows": rows, "completion_tokens": rows, "failures": {}}


def follower(folder: Path, policy: dict[str, Any], **workers: Any) -> tuple[Follower, Said, Any]:
    said, lost, store = Said(), threading.Event(), open_store(str(folder))
    state = {"workers": workers, "deaths": 0, "nodes": [], "held": 0}
    if "budget" in policy:
        said.budget = BudgetWatch(Budget(**policy["budget"]), [], {})
    made = Follower(
        Policy.model_validate(policy),
        ReceiptLog(store),
        store=store,
        show=said,
        lost=lost,
        metrics=said,  # type: ignore[arg-type]
        read_board=lambda: state,
        totals={"all": 1000},
        before={"all": 100},
        budget=said.budget,
        begin_no_more=lambda: said.lines.append("no more"),
    )
    return made, said, lost


def items(*given: Any) -> queue.Queue[Any]:
    made: queue.Queue[Any] = queue.Queue()
    for item in given:
        made.put(item)
    return made


def test_what_is_committed_counts_also_when_its_worker_is_gone() -> None:
    """Live numbers run ahead of receipts, and are lost with a board; receipts never are."""
    snapshot = Snapshot(phase="starting engines")
    receipts = [receipt(300, "a"), receipt(50, "b")]
    numbers = {"w1": worker("a", answered=120), "w2": worker("b", answered=90, failed=10)}
    fill(snapshot, numbers, receipts, {"a": 1000, "b": 200}, {"a": 100})
    assert snapshot.routes == {"a": (400, 1000), "b": (100, 200)}
    assert (snapshot.done, snapshot.engines, snapshot.phase) == (500, 2, "running")
    assert snapshot.completion_tokens == 350


def test_answers_of_trials_are_done_and_no_speed() -> None:
    """No worker counts them while it answers other rows; the display tells speeds without them."""
    snapshot = Snapshot(phase="running")
    known = {"reused": 40, "reused_tokens": {"completion_tokens": 60}}
    receipts = [{**receipt(50, "a"), **known}]
    fill(snapshot, {"w1": worker("a", answered=30)}, receipts, {"a": 1000}, {"a": 100})
    assert (snapshot.done, snapshot.reused) == (100 + 40 + 30, 40)
    speed = Speed()
    speed.add(Snapshot(phase="running", rows=1000, done=0), 0.0)
    jumped = Snapshot(phase="running", rows=1000, done=540, reused=500)
    assert speed.add(jumped, 10.0) == (4.0, 0.0, 115.0)


def test_a_run_ends_with_its_last_lane(tmp_path: Path) -> None:
    """Every receipt is in the log by then, those of an earlier start are counted."""
    made, said, _ = follower(tmp_path, {}, w=worker(answered=300))
    made.follow(2, items(receipt(100), None, receipt(200), None))
    assert said.done == 400
    assert (said.lines, said.alerts) == ([], [])


def test_what_ends_a_lane_ends_the_run(tmp_path: Path) -> None:
    """So do a lease that is lost, and an alert that is to stop it; each by its own error."""
    made, *_ = follower(tmp_path, {})
    with pytest.raises(GemmaBatchError, match="no more"):
        made.follow(1, items(GemmaBatchError("no more")))
    made, _, lost = follower(tmp_path, {})
    lost.set()
    with pytest.raises(LeaseError):
        made.follow(1, items(None))
    policy = {"alerts": {"max_row_seconds": 5, "stop": ["max_row_seconds"]}}
    made, said, _ = follower(tmp_path, policy, w=worker(oldest_seconds=6.0))
    with pytest.raises(StoppedError, match=r"policy\.alerts\.stop"):
        made.follow(1, items(receipt(10)))
    assert said.alerts == ["max_row_seconds"]
    (event,) = load_alerts(open_store(str(tmp_path)))
    assert said.lines == [f"alert: {event.text}"]


def test_an_alert_alone_stops_nothing(tmp_path: Path) -> None:
    """It is told, and the run goes on to its end."""
    policy = {"alerts": {"max_row_seconds": 5}}
    made, said, _ = follower(tmp_path, policy, w=worker(oldest_seconds=6.0))
    made.follow(1, items(receipt(10), None))
    assert said.alerts == ["max_row_seconds"]


def test_receipts_are_copied_now_and_then(tmp_path: Path) -> None:
    """In files of many, each once."""
    store = open_store(str(tmp_path))
    log = ReceiptLog(store)
    for n in range(RECEIPTS_KEPT + 1):
        log.add({"part": n})
    log.save()
    log.save()
    files = store.list(RECEIPTS)
    lines = [line for path in files for line in store.read(path).decode().splitlines()]
    assert len(files) == 2
    assert len(lines) == len(set(lines)) == RECEIPTS_KEPT + 1


def test_a_spent_budget_ends_a_run_that_has_rows_left_once_no_unit_is_held(tmp_path: Path) -> None:
    """It is said once, and told to the workers at each look; receipts that come meanwhile count."""
    policy = {"budget": {"gpu_hours": 5 / 3600}}
    made, said, _ = follower(tmp_path, policy, w=worker(answered=300))
    made.follow(1, items(receipt(100), receipt(50)))
    assert said.done == 400
    told, *rest = said.lines
    assert told.startswith("the budget is almost spent: 0.00278 of policy.budget.gpu_hours=0.00138")
    assert len(rest) > QUIET_LOOKS
    assert set(rest) == {"no more"}
    made, said, _ = follower(tmp_path, {"budget": {"gpu_hours": 1}}, w=worker(answered=300))
    made.follow(1, items(receipt(100), None))
    assert said.lines == []
