"""The circuit breaker: ends a run that costs money without getting anywhere.

The follower gives the breaker the receipts and the state of the board. The breaker raises
`StoppedError` with the cause in one sentence. Committed parts stay, and a later start goes on from
there. Rows that are bad in the input never trip the breaker: such a row gets a failure code, and
the run itself is in order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from gemma_batch.committing.reuse import worked
from gemma_batch.errors import GO_ON, FailureCode, StoppedError
from gemma_batch.spec import Stop

ENGINE_FAILURES = (
    FailureCode.ENGINE_CRASH,
    FailureCode.ENGINE_ERROR,
    FailureCode.ENGINE_REJECTED,
    FailureCode.DEADLINE,
)


class Breaker:
    """Watches one run within the limits of `policy.stop`.

    `clock` returns seconds and never goes back.
    """

    def __init__(self, stop: Stop, clock: Callable[[], float] = time.monotonic) -> None:
        self._stop, self._clock = stop, clock
        self._window: deque[Mapping[str, Any]] = deque()
        self._rows = 0
        self._restarts: deque[tuple[float, int]] = deque()
        self._last: Hashable = None
        self._moved = clock()

    def receipt(self, receipt: Mapping[str, Any]) -> None:
        """Take the receipt of a committed unit.

        Raises `StoppedError` when engines failed too many of the last `policy.stop.last_rows` rows.
        """
        self._window.append(receipt)
        self._rows += worked(receipt, "rows")
        while self._rows - worked(self._window[0], "rows") >= self._stop.last_rows:
            self._rows -= worked(self._window.popleft(), "rows")
        if self._rows < self._stop.last_rows:
            return
        codes: dict[str, int] = {}
        for one in self._window:
            for code in ENGINE_FAILURES:
                if count := one["failures"].get(code.value):
                    codes[code.value] = codes.get(code.value, 0) + count
        failed = sum(codes.values())
        if failed > self._stop.failed_share * self._rows:
            causes = ", ".join(f"{code} {count:,}" for code, count in codes.items())
            raise StoppedError(
                f"stopped: the engines failed {failed:,} of the last {self._rows:,} rows "
                f"({causes}), more than policy.stop.failed_share={self._stop.failed_share:g}. "
                f"{GO_ON}, and `retry` for the failed rows"
            )

    def engines(self, state: Mapping[str, Any]) -> None:
        """Take the board's state. Raises `StoppedError` when engines or workers die too often."""
        workers = state["workers"].values()
        restarts = state["deaths"] + sum(max(0, w["engine_starts"] - 1) for w in workers)
        engines = max(1, len(workers) - state["deaths"])
        now, span = self._clock(), self._stop.minutes * 60
        self._restarts.append((now, restarts))
        while now - self._restarts[0][0] > span:
            self._restarts.popleft()
        recent = restarts - self._restarts[0][1]
        if recent > self._stop.engine_restarts * engines:
            raise StoppedError(
                f"stopped: engines or their workers died {recent} times within "
                f"{self._stop.minutes:g} minutes ({engines} running), more than "
                f"policy.stop.engine_restarts={self._stop.engine_restarts} for each. "
                f"Look at the workers' logs (--verbose). {GO_ON}"
            )

    def moving(self, signs: Hashable) -> None:
        """Take numbers that change while the run makes progress.

        Raises `StoppedError` when no number has changed for `policy.stop.stalled_minutes`.
        """
        now = self._clock()
        if signs != self._last:
            self._last, self._moved = signs, now
        elif now - self._moved > self._stop.stalled_minutes * 60:
            raise StoppedError(
                f"stopped: nothing has moved for {self._stop.stalled_minutes:g} minutes "
                "(policy.stop.stalled_minutes): no engine came up, no row was answered. Is there "
                f"room on the cluster (`ray status`)? {GO_ON}"
            )
