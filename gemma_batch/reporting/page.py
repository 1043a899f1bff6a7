"""The page report.html: one self-contained file about an output, to look at or to mail.

The page is made from the report and the receipts alone, so it can be made for any output at any
time, on any machine that can read the output. The page has no scripts and loads no other files.
It is light or dark, as the reader's browser is set. Charts leave out the time between a stop and
the next start, when no unit was running.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gemma_batch.committing.ledger import Receipt, part_failures
from gemma_batch.committing.reuse import worked
from gemma_batch.reporting.alerts import Alert
from gemma_batch.reporting.hours import hours_text
from gemma_batch.reporting.report import Report
from gemma_batch.reporting.sample_page import shower
from gemma_batch.reporting.samples import ShownRow
from gemma_batch.reporting.spending import spent_text
from gemma_batch.reporting.templates import template
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import parts_folder
from gemma_batch.texts import duration, moment

KEY = "_run/report.html"
TEMPLATE = "page.html.jinja"
POINTS = 80  # points of a chart
MARGIN = 1.05  # the upper edge of a chart, as a multiple of its highest value
WIDTH, HEIGHT = 640, 140  # size of a chart in SVG units; the chart scales with the page
SAMPLED_PARTS, SAMPLES = 20, 3  # most parts to open for samples of failures; samples per code
NAMES = {
    "start": "start-up",
    "starved": "starved",
    "retries": "restarts",
    "tail": "tail",
    "prefill": "prefill",
    "decode": "decode",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A curve: `line` and `area` are SVG path data.

    `most` is the highest value of the curve, `mean` its mean value.
    """

    line: str
    area: str
    most: float
    mean: float


def save_page(
    store: Store,
    report: Report,
    receipts: Sequence[Receipt],
    spec: Mapping[str, Any],
    shown: Sequence[ShownRow] | None = None,
) -> None:
    """Put `_run/report.html`, or replace the page of an earlier run. Raises `StorageError`.

    `shown` as for `report_page`.
    """
    samples = failure_samples(store, receipts)
    store.put(KEY, report_page(report, receipts, samples, spec, shown).encode())


def report_page(
    report: Report,
    receipts: Sequence[Receipt],
    samples: dict[str, list[dict[str, Any]]],
    spec: Mapping[str, Any],
    shown: Sequence[ShownRow] | None = None,
) -> str:
    """The page as HTML; `samples` are a few failures per code, with `id` and `message`.

    `shown` are rows with prompts and answers. None keeps all contents of rows out of the page, also
    the answers of failures.
    """
    work = [(r["started"], r["finished"], worked(r, "rows")) for r in receipts if "started" in r]
    clock = Clock((begin, end) for begin, end, _ in work)
    return template(TEMPLATE).render(
        report=report,
        duration=duration,
        working=clock.total,
        speed=chart(clock, rate(clock, work)),
        replicas=chart(clock, presence(clock, receipts)),
        prompt=histogram(r.get("prompt_sizes", {}) for r in receipts),
        answer=histogram(r.get("answer_sizes", {}) for r in receipts),
        hours=hours_text(report.device_hours, report.device_kinds),
        compared=compared(report),
        spec=yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True),
        samples=samples,
        shown=shown,
        d=shower(),
        alerts=[Alert(**alert) for alert in report.alerts],
        spent=spent_text(report.budget, report.device_hours, report.cost),
        moment=moment,
        names=NAMES,
        width=WIDTH,
        height=HEIGHT,
    )


class Clock:
    """A clock that runs only while at least one unit is running; it stops at a standstill.

    `spans` are the start and the end of each unit, in Unix seconds.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin, end in sorted(spans):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)
        lengths = (e - b for b, e in zip(self._begins, self._ends, strict=True))
        self._before = [0.0, *itertools.accumulate(lengths)]

    @property
    def total(self) -> float:
        """All seconds on this clock."""
        return self._before[-1]

    def at(self, moment: float) -> float:
        """How many seconds of this clock had passed at `moment` (Unix seconds)."""
        i = bisect.bisect_right(self._begins, moment) - 1
        if i < 0:
            return 0.0
        return self._before[i] + min(moment, self._ends[i]) - self._begins[i]


def rate(clock: Clock, work: Sequence[tuple[float, float, float]]) -> list[float]:
    """Rows per second over time: the rows of a unit are spread evenly over the unit's time.

    `work` holds for each unit its start, its end (Unix seconds) and its rows.
    """
    values = [0.0] * POINTS
    step = clock.total / POINTS
    for begin, end, rows in work:
        a, b = clock.at(begin), clock.at(end)
        if b <= a or not step:
            continue
        for i in range(int(a / step), min(POINTS, int(b / step) + 1)):
            overlap = min(b, (i + 1) * step) - max(a, i * step)
            values[i] += max(0.0, overlap) * rows / (b - a) / step
    return values


def presence(clock: Clock, receipts: Sequence[Receipt]) -> list[float]:
    """How many replicas work, over time.

    A replica works from the start of its first unit to its last commit.
    """
    spans: dict[str, tuple[float, float]] = {}
    for r in receipts:
        if "worker" in r and "started" in r:
            begin, end = spans.get(r["worker"], (r["started"], r["finished"]))
            spans[r["worker"]] = (min(begin, r["started"]), max(end, r["finished"]))
    values = [0.0] * POINTS
    step = clock.total / POINTS
    for begin, end in spans.values():
        a, b = clock.at(begin), clock.at(end)
        for i in range(POINTS):
            middle = (i + 0.5) * step
            values[i] += 1.0 if a <= middle <= b else 0.0
    return values


def chart(clock: Clock, values: Sequence[float]) -> Chart | None:
    """The values as a curve; None when there is no value to draw."""
    if clock.total <= 0 or not any(values):
        return None
    most = max(values)
    top = most * MARGIN
    step = WIDTH / len(values)
    points = [
        f"{(i + 0.5) * step:.1f},{HEIGHT - HEIGHT * value / top:.1f}"
        for i, value in enumerate(values)
    ]
    line = "M" + " L".join(points)
    area = f"M0,{HEIGHT} L{' L'.join(points)} L{WIDTH},{HEIGHT} Z"
    return Chart(line=line, area=area, most=most, mean=sum(values) / len(values))


def histogram(units: Iterable[Mapping[str, int]]) -> list[tuple[str, int, float]]:
    """Rows by size in tokens, in powers of two, of all units together.

    Each entry is (label, rows, rows as a share of the largest entry's rows).
    """
    counts: Counter[int] = Counter()
    for sizes in units:
        counts.update({int(bucket): rows for bucket, rows in sizes.items()})
    if not counts:
        return []
    most = max(counts.values())
    return [
        (f"up to {1 << bucket:,}", counts[bucket], counts[bucket] / most)
        for bucket in range(min(counts), max(counts) + 1)
    ]


def compared(report: Report) -> list[tuple[str, str, str]]:
    """Prediction and result side by side: (name, predicted by the plan, measured by the report).

    Numbers that only one of the two knows are left out.
    """
    predicted = report.predicted
    if predicted is None:
        return []
    routes, rows = predicted["routes"], sum(route["rows"] for route in predicted["routes"])

    def mean(name: str) -> float:
        return float(sum(route[name] * route["rows"] for route in routes) / max(rows, 1))

    answered = max(report.answered, 1)
    found = [
        (
            "prompt tokens per row",
            f"{mean('prompt_tokens'):,.1f}",
            f"{report.prompt_tokens / answered:,.1f}",
        ),
        (
            "output tokens per row",
            f"at most {mean('output_tokens'):,.1f}",
            f"{report.completion_tokens / answered:,.1f}",
        ),
    ]
    if (
        report.run_rows + report.reused == report.rows
    ):  # otherwise the last run did only a part of the job
        speed = sum(route["rows_per_second"] for route in routes)
        found += [
            ("rows/s once running", f"{speed:,.1f}", f"{report.steady_rows_per_second:,.1f}"),
            ("time", f"at most {duration(predicted['seconds'])}", duration(report.seconds)),
        ]
    if predicted["gpu_hours"]:
        hours = f"at most {predicted['gpu_hours']:,.2f}"
        found.append(("GPU-hours", hours, f"{report.device_hours:,.2f}"))
    if predicted["cost"] is not None and report.cost is not None:
        found.append(("cost", f"at most {predicted['cost']:,.2f}", f"{report.cost:,.2f}"))
    return found


def failure_samples(store: Store, receipts: Sequence[Receipt]) -> dict[str, list[dict[str, Any]]]:
    """A few failures per code, from the footers of a few parts with failures.

    Raises `OutputError` when a footer cannot be read, `StorageError`.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    opened = 0
    for receipt in sorted(receipts, key=lambda receipt: str(receipt["part"])):
        wanted = [code for code in receipt["failures"] if len(found.get(code, ())) < SAMPLES]
        if not wanted:
            continue
        if opened == SAMPLED_PARTS:
            break
        opened += 1
        path = f"{parts_folder(receipt.get('step'))}/{receipt['part']}"
        for failure in part_failures(store, path):
            mine = found.setdefault(failure["code"], [])
            if len(mine) < SAMPLES:
                mine.append(failure)
    return found
