"""A short selection of the faults; `make faults` runs every one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .harness import Bench
from .runner import bench as make_bench
from .runner import run_one
from .scenarios import FAULTS, Fault


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A cluster of three nodes, and an object store behind a proxy that injects faults."""
    before = dict(os.environ)
    try:
        with make_bench(tmp_path_factory.mktemp("faults"), seed=11) as made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("fault", [f for f in FAULTS.values() if f.quick], ids=lambda f: f.name)
def test_nothing_is_lost(bench: Bench, fault: Fault) -> None:
    """Promises 1 to 4 under this fault: each key once, right content, books that agree."""
    result = run_one(bench, fault)
    if result.outcome == "skipped":
        pytest.skip(result.why)
    assert not result.problem, result.problem
    assert result.redone is None or result.redone <= 1000, "more was redone than was in flight"
