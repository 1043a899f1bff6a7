"""A signal is heard at once, whatever the main thread does, and asks once to stop."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from gemma_batch.driver import interrupts
from gemma_batch.driver.interrupts import check_not_interrupted, stoppable

WAIT = 60  # seconds


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in interrupts.NUMBERS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def send(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_it_is_heard_while_native_code_runs() -> None:
    """The exception comes when the native code ends; the word comes before."""
    heard: list[float] = []
    ended = [0.0]

    def work() -> None:
        threading.Timer(0.1, send).start()
        for _ in range(100):  # calls as long as this machine needs
            try:
                hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
            finally:
                ended[0] = time.monotonic()

    with pytest.raises(KeyboardInterrupt), stoppable(lambda: heard.append(time.monotonic())):
        work()
    assert heard
    assert heard[0] < ended[0]


@pytest.mark.parametrize(
    ("pauses", "told"),
    [
        ([], ["first"]),
        ([0.0, 0.0], ["first"]),  # a terminal and a wrapper send the same signal
        ([1.5], ["first", "again"]),
        ([1.5, 1.5], ["first", "again"]),
    ],
)
def test_a_later_signal_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float], told: list[str]
) -> None:
    """By a second between the two. `pauses` are in seconds, by a clock that stands otherwise."""
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    calls: list[str] = []
    done = threading.Semaphore(0)

    def hear(what: str) -> None:
        calls.append(what)
        done.release()

    with stoppable(lambda: hear("first"), lambda: hear("again")):
        with pytest.raises(KeyboardInterrupt):
            send()
        assert done.acquire(timeout=WAIT)
        for pause in pauses:
            now[0] += pause
            with pytest.raises(KeyboardInterrupt) if pause else contextlib.nullcontext():
                send(signal.SIGINT)
            if len(calls) < len(told):
                assert done.acquire(timeout=WAIT)
    assert calls == told


def test_only_the_outermost_block_tells() -> None:
    """The command line's words come instead of the run's."""
    calls: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        stoppable(lambda: calls.append("outer")),
        stoppable(lambda: calls.append("inner")),
    ):
        send()
    assert calls == ["outer"]


def test_an_exception_that_python_drops_is_raised_later(capfd: pytest.CaptureFixture[str]) -> None:
    """A destructor cannot raise: the request is kept, and Python's words about it are not."""

    class Interrupted:
        def __del__(self) -> None:
            send()

    heard = threading.Event()
    with stoppable(heard.set):
        thing = Interrupted()
        del thing
        with pytest.raises(KeyboardInterrupt):
            check_not_interrupted()
        assert heard.wait(WAIT)
    assert capfd.readouterr().err == ""
