"""The host: an engine and its feed for anybody, without units, a commit or Ray."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from gemma_batch.answering.host import Host
from gemma_batch.engines import base
from gemma_batch.engines.base import EngineConfig
from gemma_batch.engines.echo import EchoEngine
from gemma_batch.errors import EngineError, EngineLost, ModelError
from gemma_batch.rows import Failure
from tests.answering.test_feed import bad, config, good


def test_requests_are_answered_from_any_thread() -> None:
    """Each once, whatever asks; a row that kills the engine costs itself (promise 3)."""
    ready = Event()
    host = Host(config(), in_flight=8, on_ready=ready.set)
    try:
        outcomes = host.run([good(1), bad(2), good(3)])
        assert ready.is_set()
        assert isinstance(outcomes[2], Failure)
        assert [outcomes[n].outputs[0].split()[-1] for n in (1, 3)] == ["1", "3"]  # type: ignore[union-attr]
        assert host.run_when_needed(lambda: [good(4)]).keys() == {4}
        assert (host.stats.answered, host.stats.failed) == (3, 1)
    finally:
        host.close()
    with pytest.raises(EngineLost, match="closed"):
        host.run([good(5)])


def test_what_cannot_be_fetched_is_told_to_everybody_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine that has nothing to load never starts, and nobody waits for it."""

    def nothing_there(cls: type, given: EngineConfig) -> EngineConfig:
        raise ModelError("the model folder 'x' does not exist")

    monkeypatch.setattr(EchoEngine, "prepare", classmethod(nothing_there))
    host = Host(config(), in_flight=8)
    with pytest.raises(EngineError, match="could not be started: the model folder 'x'"):
        host.run([good(1)])
    host.close()


def test_an_engine_that_cannot_be_imported_is_told_to_everybody_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node whose packages are broken says so instead of holding its units for ever."""
    monkeypatch.setitem(base.REGISTRY, "echo", "gemma_batch.engines.gone:Engine")
    host = Host(config(), in_flight=8)
    with pytest.raises(EngineError, match="could not be started: ModuleNotFoundError"):
        host.run([good(1)])
    host.close()


def test_an_engine_is_started_with_what_was_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that was fetched, not the name that the spec gave."""
    seen: list[str] = []

    def fetched(cls: type, given: EngineConfig) -> EngineConfig:
        return replace(given, model="/fetched")

    def remember(self: Any, given: EngineConfig) -> None:
        seen.append(given.model)
        made(self, given)

    made = EchoEngine.__init__
    monkeypatch.setattr(EchoEngine, "prepare", classmethod(fetched))
    monkeypatch.setattr(EchoEngine, "__init__", remember)
    host = Host(config(), in_flight=8)
    host.run([good(1)])
    host.close()
    assert seen == ["/fetched"]


def test_it_needs_no_ray_and_no_storage() -> None:
    """Others can host an engine in any process of theirs."""
    code = (
        "import sys, gemma_batch.answering.host; "
        "print(sorted({'ray', 's3fs', 'fsspec', 'duckdb'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
