"""report.html: true to the receipts, safe to open, whole without anything else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from gemma_batch.reporting.page import (
    POINTS,
    Clock,
    chart,
    compared,
    histogram,
    presence,
    rate,
    report_page,
)
from gemma_batch.reporting.report import Report


def receipt(worker: str, started: float, finished: float, rows: int = 100) -> dict[str, Any]:
    return {
        "part": f"part-{started}",
        "route": "all",
        "worker": worker,
        "started": started,
        "finished": finished,
        "rows": rows,
        "answered": rows,
        "prompt_tokens": rows * 70,
        "completion_tokens": rows * 5,
        "prompt_sizes": {"6": 1, "7": rows - 1},
        "answer_sizes": {"3": rows},
        "failures": {},
    }


def report(**more: Any) -> Report:
    facts: dict[str, Any] = {
        "name": "a job",
        "output": "s3://bucket/out",
        "complete": True,
        "rows": 1200,
        "answered": 1200,
        "failed": 0,
        "routes": {"all": {"model": "m", "units": 1, "answered": 1200, "completion_tokens": 9}},
        "units": 12,
        "units_committed": 12,
    }
    return Report(**{**facts, **more})


class Reader(HTMLParser):
    """Open tags must be closed; nothing may be loaded or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name in {"src", "href"} or name.startswith("on") for name, _ in attrs)
        if tag not in {"meta", "path", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.tags
    assert "url(" not in page
    assert "http" not in page
    return reader


def test_a_standstill_takes_no_room() -> None:
    """Stopped on one day and gone on with on the next: the night is not drawn."""
    clock = Clock([(0, 10), (5, 20), (86_400, 86_430)])
    assert clock.total == 50
    assert clock.at(-5) == 0
    assert clock.at(10) == 10
    assert clock.at(50_000) == 20
    assert clock.at(86_410) == 30
    assert clock.at(99_999) == 50


def test_the_curve_holds_every_row() -> None:
    """Its area is the number of rows, however units lie across its points."""
    work = [(0.0, 7.3, 100.0), (3.1, 20.0, 250.0), (1000.0, 1013.0, 77.0)]
    clock = Clock([(begin, end) for begin, end, _ in work])
    values = rate(clock, work)
    assert len(values) == POINTS
    assert sum(values) * clock.total / POINTS == pytest.approx(427)


def test_replicas_come_and_go() -> None:
    """Two at first, one after the other's last commit."""
    receipts = [receipt("a", 0, 50), receipt("a", 50, 100), receipt("b", 0, 50)]
    values = presence(Clock([(0, 100)]), receipts)
    assert values[0] == values[POINTS // 2 - 1] == 2
    assert values[POINTS // 2 + 1] == values[-1] == 1


def test_the_histogram_counts_rows_once() -> None:
    """In powers of two, buckets in between shown even when they are empty."""
    found = histogram([{"3": 100}, {"6": 10}, {"3": 1, "4": 2}, {}])
    assert [(label, rows) for label, rows, _ in found] == [
        ("up to 8", 101),
        ("up to 16", 2),
        ("up to 32", 0),
        ("up to 64", 10),
    ]
    assert [share for *_, share in found] == pytest.approx([1.0, 2 / 101, 0.0, 10 / 101])
    assert histogram([]) == []


def test_what_was_predicted_stands_beside_what_came() -> None:
    """Times only when the last run was the whole job; costs only where a price was given."""
    route = {"rows": 1200, "prompt_tokens": 80.0, "output_tokens": 8.0, "rows_per_second": 60.0}
    predicted = {"seconds": 61.0, "gpu_hours": 0.5, "cost": 2.0, "routes": [route]}
    facts = {"prompt_tokens": 120_000, "completion_tokens": 6000, "predicted": predicted}
    whole = report(**facts, run_rows=1200, seconds=50.0, device_hours=0.4, cost=1.6)
    assert compared(whole) == [
        ("prompt tokens per row", "80.0", "100.0"),
        ("output tokens per row", "at most 8.0", "5.0"),
        ("rows/s once running", "60.0", "0.0"),
        ("time", "at most 1:01", "0:50"),
        ("GPU-hours", "at most 0.50", "0.40"),
        ("cost", "at most 2.00", "1.60"),
    ]
    resumed = compared(report(**facts, run_rows=10, seconds=5.0))
    assert [what for what, *_ in resumed] == [
        "prompt tokens per row",
        "output tokens per row",
        "GPU-hours",
    ]
    assert compared(report()) == []


def test_the_page_says_what_the_report_says() -> None:
    """Counts, models, failures with samples, where time went; documents cannot inject markup."""
    samples = {"null_value": [{"id": "<script>x</script>", "message": "a & b"}]}
    found = report(
        failed=3,
        failures={"null_value": 3},
        engine_time={"start": 0.25, "decode": 0.75},
        limit_share=0.5,
        predicted={"seconds": 61.0, "gpu_hours": 0.0, "cost": None, "routes": []},
        run_rows=1200,
        cost=12.5,
        device_hours=5.0,
        alerts=[
            {"time": 0.0, "name": "max_failed_share", "value": 0.3, "threshold": 0.2},
        ],
    )
    spec = {"prompt": {"user": "<b>{{ doc }}</b>"}}
    page = report_page(found, [receipt("a", 0, 50), receipt("b", 10, 70)], samples, spec)
    text = " ".join(read(page).words)
    for word in ("a job", "s3://bucket/out", "1,200", "null_value", "<script>x</script>", "a & b"):
        assert word in text
    for word in ("25.0%", "75.0%", "50.0%", "1:01", "up to 128", "12.50", "<b>{{ doc }}</b>"):
        assert word in text
    assert "1970-01-01 00:00:00 UTC" in text
    assert "30.0% of the rows failed, more than policy.alerts.max_failed_share=0.2" in text
    assert len(re.findall("<svg", page)) == 2


def test_an_output_without_any_receipt_has_a_page() -> None:
    """A run that was stopped before its first commit."""
    page = report_page(report(complete=False, answered=0, units_committed=0, routes={}), [], {}, {})
    assert "not complete" in " ".join(read(page).words)
    assert "<svg" not in page
    assert chart(Clock([]), []) is None


def test_the_page_of_a_run_that_its_budget_ended_says_so() -> None:
    """Beside what was spent; a run without a budget has no word of one."""
    why = "stopped by the budget: 0.99 of policy.budget.gpu_hours=1 is spent"
    found = report(
        complete=False, incomplete=True, why=why, budget={"gpu_hours": 1.0}, device_hours=0.99
    )
    text = " ".join(read(report_page(found, [], {}, {})).words)
    assert f"{why}." in text
    assert "budget 0.99 of policy.budget.gpu_hours=1 " in text
    assert "budget" not in " ".join(read(report_page(report(), [], {}, {})).words)
