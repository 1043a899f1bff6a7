"""The sample: lengths, failures and prefixes of an input, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.planning.sample import RouteSample, sample_facts, sample_routes, sample_rows
from gemma_batch.spec import JobSpec

POLICY = "the quick brown fox jumps over the lazy dog while five wizards box " * 4


def plan_for(
    folder: Path, tiny: str, rows: list[dict[str, Any]], shards: int = 2, **more: Any
) -> Plan:
    size = -(-len(rows) // shards)
    for i in range(shards):
        pq.write_table(pa.Table.from_pylist(rows[i * size :][:size]), folder / f"{i}.parquet")
    data = {
        "input": {"path": f"{folder}/*.parquet"},
        "prompt": {"user": "{{ text }}\n{{ policy }}"},
        "model": tiny,
        "sampling": {"max_tokens": 8},
        "output": {"path": str(folder / "out")},
        "resources": {"max_model_len": 512},
        **more,
    }
    return make_plan(JobSpec.from_dict(data), need_files=False)


def rows(count: int, policies: int = 4) -> list[dict[str, Any]]:
    return [
        {"text": f"row {i} " * (1 + i % 5), "policy": f"{i % policies} {POLICY}"}
        for i in range(count)
    ]


def test_tokens_are_those_of_the_model(tmp_path: Path, model: str) -> None:
    """Exactly what the rows will cost, and rows over the context by their code."""
    data = rows(60)
    data[7]["text"] = "wizards box " * 900
    data[8]["policy"] = None
    (sample,) = sample_routes(plan_for(tmp_path, model, data)).values()
    assert (sample.rows, len(sample.prompt_tokens), sample.exact) == (60, 58, True)
    assert sample.failures == {"prompt_too_long": 1, "null_value": 1}
    assert sample.over_context == pytest.approx(1 / 60)
    assert sample.quantile(0) <= sample.mean_tokens <= sample.prompt_tokens[-1] < 512
    assert sum(sample.histogram().values()) == 58
    for bound, count in sample.histogram().items():
        assert count == sum(bound / 2 < n <= bound for n in sample.prompt_tokens)


def test_rows_come_from_all_over_the_input(tmp_path: Path, model: str) -> None:
    """Not only from the first shard; all of a small one."""
    plan = plan_for(tmp_path, model, rows(100), shards=10)
    found = sample_rows(plan, 20)
    assert len(found) == 20
    assert len({row.values["policy"] for row in found if row.values}) > 1
    assert len(sample_rows(plan, 1000)) == 100


def test_moving_what_repeats_to_the_front_is_suggested(tmp_path: Path, model: str) -> None:
    """And the suggestion holds: with the fields swapped, the share is there."""
    (late,) = sample_routes(plan_for(tmp_path, model, rows(200))).values()
    assert late.hint is not None
    assert "{{ policy }} took only 4 values in 200 rows" in late.hint
    assert "behind {{ text }}" in late.hint
    assert late.shared < 0.1
    swapped = plan_for(tmp_path, model, rows(200), prompt={"user": "{{ policy }}\n{{ text }}"})
    (early,) = sample_routes(swapped).values()
    assert early.hint is None
    assert early.shared > 0.5
    assert early.gain > 0.5, "the rows alternate between the policies"


def test_no_suggestion_where_nothing_repeats(tmp_path: Path, model: str) -> None:
    """Unique documents, short columns, or a repeating column that is first already."""
    (unique,) = sample_routes(plan_for(tmp_path, model, rows(100, policies=100))).values()
    assert unique.hint is None
    data = [{"text": f"{POLICY} {i}", "policy": "x"} for i in range(100)]
    (short,) = sample_routes(plan_for(tmp_path, model, data)).values()
    assert short.hint is None


def test_without_the_model_lengths_are_guessed(tmp_path: Path) -> None:
    """Four characters a token, and said so; prefixes are seen all the same."""
    plan = plan_for(
        tmp_path,
        "google/gemma-3-1b-it",
        rows(100),
        prompt={"user": "{{ policy }}\n{{ text }}"},
    )
    if plan.routes[0].files is not None:
        pytest.skip("the model's files are at hand here")
    (sample,) = sample_routes(plan).values()
    assert not sample.exact
    assert 60 < sample.mean_tokens < 120
    assert sample.shared > 0.5


def test_each_route_has_its_own_sample(tmp_path: Path, model: str) -> None:
    """Rows are counted where they go."""
    routes = [
        {"name": "long", "when": "length(text) > 20", "model": model},
        {"name": "rest", "model": model},
    ]
    plan = plan_for(tmp_path, model, rows(50), model=None, routes=routes)
    samples = sample_routes(plan)
    assert sum(sample.rows for sample in samples.values()) == 50
    assert samples["long"].mean_tokens > samples["rest"].mean_tokens


def test_an_empty_sample_is_still_a_sample() -> None:
    """No readable row is no reason to fail."""
    facts = sample_facts(RouteSample(rows=0))
    assert (facts["mean"], facts["max"], facts["histogram"]) == (0, 0, {})
