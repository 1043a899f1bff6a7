"""What a new engine has to say of itself, and that planning asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.engines import base
from gemma_batch.engines.base import engine_class
from gemma_batch.engines.echo import EchoEngine
from gemma_batch.errors import PlacementError, SpecError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.spec import JobSpec


class MessagesOnly(EchoEngine):
    """An engine that wants conversations and not token ids, as HTTP servers do."""

    takes = frozenset({"messages"})


class FirstNodeOnly(EchoEngine):
    """An engine with a way of its own to be placed."""

    @classmethod
    def place(cls, card: Any, resources: Any, hardware: Any, max_model_len: int) -> Any:
        raise PlacementError("not here")


def plan(folder: Path, model: str) -> Plan:
    (folder / "in.jsonl").write_text(json.dumps({"doc": "x"}))
    spec = {
        "input": {"path": str(folder / "in.jsonl")},
        "prompt": {"user": "{{ doc }}"},
        "model": model,
        "sampling": {"max_tokens": 4},
        "output": {"path": str(folder / "out")},
        "resources": {"engine": "echo", "max_model_len": 64},
    }
    return make_plan(JobSpec.from_dict(spec))


def use(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    monkeypatch.setitem(base.REGISTRY, "echo", f"{__name__}:{kind.__name__}")


def test_an_engine_that_does_not_take_the_prompts_is_refused_when_planning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    """Before anything is started (promise 7)."""
    use(monkeypatch, MessagesOnly)
    with pytest.raises(SpecError, match=r"'echo' takes no prompts of the kind 'tokens'.*messages"):
        plan(tmp_path, model)


def test_an_engine_is_asked_where_it_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    """Planning has no rule of its own about engines."""
    use(monkeypatch, FirstNodeOnly)
    with pytest.raises(PlacementError, match="not here"):
        plan(tmp_path, model).placed(Hardware(gpu=None))


@pytest.mark.parametrize("name", base.REGISTRY)
def test_every_engine_says_what_it_takes(name: str) -> None:
    """Each class has all that the protocol asks for before an instance exists."""
    found = engine_class(name)
    assert found.takes == {"tokens"}
    assert isinstance(found.computes, bool)
    for asked in ("check_installed", "check_args", "place", "prepare"):
        assert callable(getattr(found, asked))
