"""Ray's own lines, log and signal handler stay out of the process that joins Ray."""

from __future__ import annotations

import logging
import os
import signal
import time

import pytest
import ray._private.utils

from gemma_batch.cluster.quiet import no_log_of_its_own, our_sigterm, quiet

WAIT = 60  # seconds


def test_rays_lines_are_dropped_and_others_pass_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Ray writes to the process's stderr while it starts, and so may the caller's threads."""
    seen, deadline = "", time.monotonic() + WAIT
    with quiet():
        os.write(2, b"[2026-11-28 00:20:13,990 I 29496 29496] logging.cc:303: Set ray log level\n")
        os.write(2, b"2026-11-28 00:20:17,136\tWARNING worker.py:1681 -- SIGTERM handler is not\n")
        os.write(2, b"stopping\n")
        while not seen:
            assert time.monotonic() < deadline, "not while the block lasts"
            seen = capfd.readouterr().err
        os.write(2, b"half ")
        os.write(2, b"done\n")
        os.write(2, b"without an end")
    assert seen == "stopping\n"
    assert capfd.readouterr().err == "half done\nwithout an end"


@pytest.mark.parametrize("verbose", [False, True])
def test_rays_log_goes_where_the_log_of_the_process_goes(
    caplog: pytest.LogCaptureFixture, verbose: bool
) -> None:
    """Unless the person asked for it; afterwards Ray's handlers are back."""
    log = logging.getLogger("ray")
    before = list(log.handlers), log.propagate
    with no_log_of_its_own(verbose):
        assert (log.handlers == before[0]) is verbose, "Ray's handlers print to stderr"
        log.warning("a warning of Ray's")
    assert "a warning of Ray's" in caplog.text
    assert (list(log.handlers), log.propagate) == before


def test_rays_handler_of_sigterm_is_not_set() -> None:
    """It would end the process with exit code 15, without a word."""
    before = signal.getsignal(signal.SIGTERM)
    with our_sigterm():
        ray._private.utils.set_sigterm_handler(lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is before
