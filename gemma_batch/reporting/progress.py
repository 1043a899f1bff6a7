"""Progress for people: a live display on a terminal, one line every N seconds in a log (driver).

This module only shows numbers. The driver takes the numbers from receipts (committed rows) and
from the workers' board (rows that are not committed yet).
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gemma_batch.texts import counted, duration, failures_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WINDOW = 20.0  # seconds over which speeds are averaged
SETTLE = 3.0  # seconds of work before a speed and the time left are shown


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment.

    `rows` are the planned rows, `committed` the rows in committed parts, `done` the rows with an
    outcome; all three count earlier runs on the output too. `failures` and `completion_tokens`
    count only this run. `reused` are rows in `done` whose answers this run took from trials.
    `routes`: name -> (rows done, planned rows). `ending`: no more units begin.
    """

    phase: str = "planning"
    rows: int = 0
    committed: int = 0
    done: int = 0
    reused: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    completion_tokens: int = 0
    engines: int = 0
    routes: dict[str, tuple[int, int]] = field(default_factory=dict)
    ending: bool = False

    @property
    def counts(self) -> str:
        """Rows done, rows committed and what a kill now would cost, as text."""
        share = f" ({100 * self.done / self.rows:.1f}%)" if self.rows else ""
        text = f"{self.done:,}/{self.rows:,} rows done{share}, {self.committed:,} committed"
        lost = self.done - self.committed
        return f"{text}, a kill now would redo {counted(lost, 'row')}" if lost > 0 else text


class Progress(Protocol):
    """A display to which the driver gives snapshots and sentences."""

    def update(self, snapshot: Snapshot) -> None:
        """Show a new state; the driver calls this about once a second."""

    def say(self, message: str) -> None:
        """Show one sentence."""

    def close(self) -> None:
        """End the display and restore the terminal."""


class Speed:
    """Rows and tokens per second over the last `WINDOW` seconds of work, and the time left."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int, int]] = deque()
        self._phase = ""

    def add(
        self, snapshot: Snapshot, now: float | None = None
    ) -> tuple[float, float, float | None]:
        """Add a snapshot; returns (rows/s, output tokens/s, seconds left).

        Seconds left is None while the speed is not known yet. `now` is a time of the monotonic
        clock in seconds (default: the present time).
        """
        now = time.monotonic() if now is None else now
        done = snapshot.done - snapshot.reused  # answers from trials are no work
        stands = self._points and done <= self._points[0][1]
        if stands or snapshot.phase != self._phase:
            # The time before the first new row is no measure of the speed: engines start then,
            # and rows of earlier runs are already counted.
            self._points.clear()
        self._phase = snapshot.phase
        self._points.append((now, done, snapshot.completion_tokens))
        while len(self._points) > 2 and now - self._points[0][0] > WINDOW:
            self._points.popleft()
        start, rows, tokens = self._points[0]
        passed = now - start
        if passed < SETTLE or done <= rows:
            return 0.0, 0.0, None
        speed = (done - rows) / passed
        left = (snapshot.rows - snapshot.done) / speed
        return speed, (snapshot.completion_tokens - tokens) / passed, left


class LogProgress:
    """One line every `every` seconds, for logs."""

    def __init__(self, every: float, stream: Any = None) -> None:
        self._every, self._stream = every, stream or sys.stderr
        self._speed = Speed()
        self._last, self._phase = 0.0, ""

    def update(self, snapshot: Snapshot) -> None:
        """Print a line when it is time, or when the phase changes."""
        rows, tokens, left = self._speed.add(snapshot)
        now = time.monotonic()
        if now - self._last < self._every and snapshot.phase == self._phase:
            return
        self._last, self._phase = now, snapshot.phase
        if not snapshot.rows:
            self.say(snapshot.phase)
            return
        if not snapshot.done:
            self.say(f"{snapshot.phase}: {snapshot.rows:,} rows to go")
            return
        parts = [
            f"{snapshot.phase}:",
            f"{snapshot.counts},",
            f"{rows:,.1f} rows/s, {tokens:,.0f} output tok/s,",
            f"{duration(left)} left",
        ]
        if text := failures_text(snapshot.failures):
            parts.append(f"- {text}")
        self.say(" ".join(parts))

    def say(self, message: str) -> None:
        """Print the sentence with the time of day."""
        print(f"{time.strftime('%H:%M:%S')} {message}", file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: a log has no display to end."""


class LiveProgress:
    """A live panel on a terminal, by rich."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._speed = Speed()
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def update(self, snapshot: Snapshot) -> None:
        """Draw the panel again."""
        self._live.update(self._draw(snapshot))

    def _draw(self, snapshot: Snapshot) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows, tokens, left = self._speed.add(snapshot)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column(width=30)
        table.add_column()
        for name, (done, total) in (snapshot.routes or {"rows": (0, snapshot.rows)}).items():
            bar = ProgressBar(total=max(total, 1), completed=done, width=30)
            share = f"{100 * done / total:5.1f}%" if total else ""
            table.add_row(name, bar, f"{done:,}/{total:,} {share}")
        passed = duration(time.monotonic() - self._started)
        line = (
            f"{snapshot.phase} · {passed} · {rows:,.1f} rows/s · {tokens:,.0f} output tok/s · "
            f"{duration(left)} left · {counted(snapshot.engines, 'engine')}"
        )
        parts: list[RenderableType] = [table, Text(line, style="dim")]
        if snapshot.done:
            parts.append(Text(snapshot.counts, style="dim"))
        if text := failures_text(snapshot.failures):
            parts.append(Text(text, style="yellow"))
        return Group(*parts)

    def say(self, message: str) -> None:
        """Print the sentence above the panel."""
        self._console.print(message, highlight=False, markup=False)

    def close(self) -> None:
        """Remove the panel."""
        self._live.stop()


def make_progress(every: float, console: Console | None = None) -> Progress:
    """A live panel on a terminal; otherwise lines, one every `every` seconds."""
    from rich.console import Console

    # A duplicate of stderr: what is kept away from stderr while Ray starts is not the panel.
    if console is None and sys.stderr is not None and sys.stderr.isatty():
        console = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8"))
    console = console or Console(stderr=True)
    return LiveProgress(console) if console.is_terminal else LogProgress(every)
