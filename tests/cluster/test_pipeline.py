"""What a process that reads keeps from unit to unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemma_batch.cluster import pipeline
from gemma_batch.family.hardware import Hardware
from gemma_batch.prompts.tokens import TokenizerFiles
from gemma_batch.reading.prepare import tokenizer_files
from gemma_batch.units.route_job import RouteJob
from tests.engines.test_base import plan


def test_each_route_is_prepared_for_once(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units of several routes come in turns; many routes do not fill the memory."""
    monkeypatch.setattr(pipeline, "_preparers", {})
    ready = plan(tmp_path, model).placed(Hardware(gpu=None))
    job = ready.job(ready.routes[0])
    files, loads = tokenizer_files(job), list[str]()

    def prepare(name: str) -> None:
        def load() -> tuple[RouteJob, TokenizerFiles]:
            loads.append(name)
            return replace(job, route=name), files

        assert pipeline._preparer(name, load).job.route == name

    for _ in range(5):
        prepare("one")
        prepare("two")
    assert loads == ["one", "two"]
    for i in range(3 * pipeline.PREPARERS):
        prepare(f"r{i}")
    assert len(pipeline._preparers) == pipeline.PREPARERS
