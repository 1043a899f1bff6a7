"""Ending: an engine stops where the chat template ends a turn, whatever the files forget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.family.hardware import Hardware
from gemma_batch.family.tiny import build_tiny_gemma
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.spec import JobSpec

Change = Callable[[Path], object]


def edit(name: str, **fields: Any) -> Change:
    """Set fields of a JSON file of the model; None takes a field away."""

    def change(folder: Path) -> None:
        data = json.loads((folder / name).read_text()) | fields
        data = {key: value for key, value in data.items() if value is not None}
        (folder / name).write_text(json.dumps(data))

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def planned(folder: Path, model: Path) -> Plan:
    (folder / "in.jsonl").write_text(json.dumps({"doc": "x"}))
    spec = {
        "input": {"path": str(folder / "in.jsonl")},
        "prompt": {"user": "{{ doc }}"},
        "model": str(model),
        "sampling": {"max_tokens": 4},
        "output": {"path": str(folder / "out")},
        "resources": {"max_model_len": 64},
    }
    return make_plan(JobSpec.from_dict(spec)).placed(Hardware(gpu=None))


FORGOTTEN = both(without("generation_config.json"), edit("config.json", eos_token_id=1))


@pytest.mark.parametrize(
    ("change", "forgotten"),
    [
        (lambda folder: None, False),
        (without("generation_config.json"), False),  # config.json names it
        (FORGOTTEN, True),
        (both(without("generation_config.json"), edit("config.json", eos_token_id=None)), True),
        (edit("generation_config.json", eos_token_id=1), True),
        (edit("generation_config.json", eos_token_id=None), True),
        (both(FORGOTTEN, edit("tokenizer_config.json", eos_token="<end_of_turn>")), False),
    ],
)
def test_a_forgotten_end_of_turn_is_added_and_said(
    tmp_path: Path, model: str, change: Change, forgotten: bool
) -> None:
    """By the rules of vLLM; where it is added, it belongs to what the run is."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    change(folder)
    plan = planned(tmp_path, folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    stops = plan.job(plan.routes[0]).engine.stop_token_ids
    assert stops == ((tokens["<end_of_turn>"],) if forgotten else ())
    assert ("<end_of_turn>" in " ".join(plan.notes)) == forgotten
    assert plan.fingerprint().fields.get("end of turn") == ("<end_of_turn>" if forgotten else None)


def test_every_generation_is_known(tmp_path: Path) -> None:
    """Gemma 4 ends its turns with another token."""
    folder = build_tiny_gemma(tmp_path / "4", generation="gemma4", texts=["a b"] * 50, vocab=600)
    assert planned(tmp_path, folder).routes[0].end_of_turn is None
    edit("generation_config.json", eos_token_id=1)(folder)
    found = planned(tmp_path, folder).routes[0].end_of_turn
    assert found is not None
    assert found[0] == "<turn|>"


def test_a_model_without_a_chat_template_is_said(tmp_path: Path, model: str) -> None:
    """Such a model gets plain text, which somebody may not expect."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    edit("tokenizer_config.json", chat_template=None)(folder)
    plan = planned(tmp_path, folder)
    assert ["no chat template" in note for note in plan.notes] == [True]
    assert plan.routes[0].end_of_turn is None
