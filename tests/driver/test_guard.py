"""The guard of an output: signals are handled while it is held, and given back as they were."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.committing.outlook import open_output
from gemma_batch.driver.guard import leased
from gemma_batch.driver.interrupts import check_not_interrupted
from gemma_batch.reporting.progress import LogProgress

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def of_the_caller(number: int, frame: Any) -> None:
    """A handler of the program that calls us."""


@pytest.fixture(autouse=True)
def _handlers() -> Any:
    before = [signal.signal(number, of_the_caller) for number in NUMBERS]
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


def hold(folder: Path, body: Any = lambda: None) -> None:
    with leased(open_output(str(folder)), LogProgress(10)):
        body()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_interrupts_the_run_and_no_later_one(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The caller's handlers are back after it, and the next run does not remember it."""
    with pytest.raises(KeyboardInterrupt):
        hold(tmp_path, lambda: os.kill(os.getpid(), number))
    assert handlers() == [of_the_caller] * 2
    with pytest.raises(KeyboardInterrupt):
        check_not_interrupted()
    hold(tmp_path, check_not_interrupted)
    assert handlers() == [of_the_caller] * 2


def test_a_run_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    """It neither sets a handler nor hears of a signal that another run was sent."""
    with pytest.raises(KeyboardInterrupt):
        hold(tmp_path / "main", lambda: os.kill(os.getpid(), signal.SIGINT))
    seen: list[Any] = []

    def look() -> None:
        check_not_interrupted()
        seen.extend(handlers())

    thread = threading.Thread(target=hold, args=(tmp_path / "thread", look))
    thread.start()
    thread.join()
    assert seen == [of_the_caller] * 2
    with pytest.raises(KeyboardInterrupt):
        check_not_interrupted()  # the run in the thread has not forgotten it for the main thread
    hold(tmp_path / "main")
