"""The relay: one worker's side of the handover of units between workers (GPU actor).

The other side is the board (`handover.py`). The rows of a unit go through Ray's object store.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray

from gemma_batch.cluster.run_actors import BOARD_SECONDS
from gemma_batch.units.unit import Unit

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0  # the pause between two questions for the outcome of a unit
PAYLOAD_SECONDS = 60.0  # the longest wait for the rows of a unit that another worker offers
SILENT_BOARD = 12  # questions without an answer after which the unit is given up

Receipt = dict[str, Any]


class Relay:
    """Gives units of the worker named `worker` to others, and takes units of others.

    `board` is the board's actor, or None: then nothing is handed over.
    """

    def __init__(self, board: Any, worker: str) -> None:
        self._board, self._worker = board, worker

    def tell(self, method: str, *values: Any, **named: Any) -> Any:
        """Call a method of the board and return its answer; None when the board is gone or slow."""
        if self._board is None:
            return None
        try:
            call = getattr(self._board, method).remote(*values, **named)
            return ray.get(call, timeout=BOARD_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as err:
            logger.warning("the board did not answer %s: %s", method, err)
            return None

    def leave(self) -> None:
        """Tell the board that this worker ends in order, without waiting for the board."""
        if self._board is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                self._board.leave.remote(self._worker)

    def give(self, unit: Unit, head: str, rows: pa.Buffer, cause: str) -> Receipt:
        """Give the unit to another worker, wait, and return the outcome (see `Handover.look`).

        `cause` says why this worker cannot answer the unit. It is "" when another worker already
        has the unit.
        """
        if self._board is None:
            return {"error": cause}
        # The payload stays in the object store as long as this call, which keeps the reference.
        payload = ray.put((head, rows.to_pybytes()))
        self.tell("offer", unit.path, self._worker, cause, [payload])
        unanswered = 0
        while unanswered < SILENT_BOARD:
            known, outcome = self.tell("look", unit.path) or (None, None)
            if outcome is not None:
                return dict(outcome)
            if known is False:  # the board is a new one, or the taker did not get the payload
                self.tell("offer", unit.path, self._worker, cause, [payload])
            unanswered = unanswered + 1 if known is None else 0
            time.sleep(LOOK_SECONDS)
        return {"error": cause or "the board of the run is lost"}

    def take(self, run: Callable[[str, pa.Buffer], Receipt | str]) -> bool:
        """Take units of other workers and run them, one after the other, until there are no more.

        `run` gets a unit's head and rows. It returns the receipt, or the cause of its failure.
        Returns False when the board does not know this worker.
        """
        while (found := self.tell("take", self._worker)) is not None:
            if found == "unknown":
                return False
            unit, (payload,) = found
            try:
                head, rows = ray.get(payload, timeout=PAYLOAD_SECONDS)
            except ray.exceptions.RayError as err:  # GetTimeoutError is one, too
                logger.warning("the rows of a unit that was handed over are lost: %s", err)
                self.tell("lost", unit, self._worker)
                continue
            outcome = run(head, pa.py_buffer(rows))
            receipt, cause = (None, outcome) if isinstance(outcome, str) else (outcome, "")
            self.tell("settle", unit, self._worker, receipt, cause)
        return True
