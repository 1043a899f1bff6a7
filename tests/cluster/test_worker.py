"""The worker's gate: a unit that must be alone is, and is not kept out for ever."""

from __future__ import annotations

import threading
import time

from gemma_batch.cluster.worker import Gate


def test_a_unit_that_wants_to_be_alone_is_alone() -> None:
    """Many pass side by side; whoever is alone sees nobody, and nobody comes in meanwhile."""
    gate, lock = Gate(), threading.Lock()
    inside: list[bool] = []
    seen: list[list[bool]] = []

    def unit(*, alone: bool) -> None:
        with gate.pass_through(alone=alone):
            with lock:
                inside.append(alone)
                seen.append(list(inside))
            time.sleep(0.005)
            with lock:
                inside.remove(alone)

    threads = [threading.Thread(target=unit, kwargs={"alone": n % 7 == 0}) for n in range(70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a unit waits for ever"
    assert len(seen) == 70
    assert all(who == [True] for who in seen if True in who)
    assert max(map(len, seen)) > 5, "ordinary units did not run side by side"


def test_who_wants_to_be_alone_is_not_starved() -> None:
    """A steady stream of ordinary units must not keep a careful one outside."""
    gate, stop = Gate(), threading.Event()

    def stream() -> None:
        while not stop.is_set():
            with gate.pass_through(alone=False):
                time.sleep(0.002)

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    started = time.monotonic()
    with gate.pass_through(alone=True):
        waited = time.monotonic() - started
    stop.set()
    for thread in threads:
        thread.join()
    assert waited < 1
