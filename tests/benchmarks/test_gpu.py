"""The GPU benchmark where there is no GPU: its loads, its models, and one run on the CPU."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_loads, gpu_models
from benchmarks.gpu_loads import LOADS, make_requests, output_tokens
from gemma_batch.family.card import card_from_config
from gemma_batch.family.catalog import find_model
from gemma_batch.family.gpus import find_gpu
from gemma_batch.planning.route_plan import FEED_FACTOR

ROOT = Path(gpu.__file__).parent.parent
ALL = [(scale, name) for scale, loads in LOADS.items() for name in loads]


@pytest.mark.parametrize(("scale", "name"), ALL)
def test_loads_have_their_lengths_and_come_again(scale: Any, name: str) -> None:
    """Equal arguments give equal rows; a new seed gives other ids of the same lengths."""
    load, vocab = LOADS[scale][name], 4096
    requests = make_requests(load, 130, vocab=vocab)
    assert requests == make_requests(load, 130, vocab=vocab)
    others = make_requests(load, 130, vocab=vocab, seed=1)
    assert all(a.prompt != b.prompt for a, b in zip(requests, others, strict=True))
    for request in (*requests, *others):
        assert len(request.prompt.token_ids) == load.prompt
        assert request.prompt.token_ids[0] == gpu_loads.BOS
        assert all(gpu_loads.FIRST_WORD <= id < vocab for id in request.prompt.token_ids[1:])
    assert load.prompt + load.most <= gpu_loads.MODEL_LEN[scale]
    if not load.sigma:
        assert output_tokens(load, requests) == 130 * load.output
    cut = make_requests(load, 130, vocab=vocab, most=3)
    assert max(request.sampling["max_tokens"] for request in cut) == 3


def test_the_tail_is_long() -> None:
    """A few rows take many times as long as the median one, none more than the most."""
    load = LOADS["full"]["tail"]
    requests = make_requests(load, 2000, vocab=262_144)
    lengths = [request.sampling["max_tokens"] for request in requests]
    assert min(lengths) == load.shortest == 8
    assert max(lengths) == load.longest == 512
    assert statistics.median(lengths) == pytest.approx(load.output, rel=0.1)
    assert statistics.fmean(lengths) == pytest.approx(load.mean_output, rel=0.1)
    assert output_tokens(load, requests) == sum(lengths)


def test_prefixes_are_interleaved() -> None:
    """Neighbours share only the first token; every 64th row shares the prefix and no more."""
    load = LOADS["full"]["prefix"]
    rows = [request.prompt.token_ids for request in make_requests(load, 130, vocab=262_144)]

    def shared(one: list[int], other: list[int]) -> int:
        return next((i for i in range(len(one)) if one[i] != other[i]), len(one))

    assert shared(rows[0], rows[1]) == 1
    assert shared(rows[0], rows[64]) == load.prefix
    assert len({tuple(row[: load.prefix]) for row in rows}) == load.prefixes
    assert gpu_loads.cacheable_tokens(load, 130) == (130 - 64) * load.prefix
    assert gpu_loads.cacheable_tokens(LOADS["full"]["equal"], 130) == 0


@pytest.mark.parametrize("name", gpu_models.MODELS)
def test_models_have_the_geometry_of_the_catalog(name: str) -> None:
    """Sizes of the written config are those of the real model's language part."""
    id, config = gpu_models.MODELS[name]
    card, known = card_from_config(id, config), find_model(id)
    assert card.text_params == pytest.approx(known.text_params, rel=0.01)
    for field in ("vocab", "layers", "layers_full", "heads", "kv_heads", "head_dim", "hidden"):
        assert getattr(card, field) == getattr(known, field), field
    for field in ("global_kv_heads", "global_head_dim", "sliding_window", "kv_layers_full"):
        assert getattr(card, field) == getattr(known, field), field


def test_tokenizers_have_a_text_for_every_id(tmp_path: Path) -> None:
    """AutoTokenizer reads a fast one with as many tokens as the model has, special ones too."""
    from transformers import AutoTokenizer

    for config in (gpu_models.TINY, gpu_models.MODELS["4b"][1]):
        size = config["vocab_size"]
        folder = gpu_models.build_folder(tmp_path / str(size), config)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.is_fast
        assert len(tokenizer) == size
        for id, text in gpu_models.SPECIAL.items():
            assert tokenizer.convert_tokens_to_ids(text) == id
        assert all(tokenizer.batch_decode([[id] for id in range(size)]))
        assert tokenizer.eos_token_id == 1


def test_limits_and_rows_are_those_of_a_plan() -> None:
    """An H100 gets the plan's limits, and enough rows to fill the engine twice."""
    assert gpu_loads.FEED_FACTOR == FEED_FACTOR
    card = card_from_config(*gpu_models.MODELS["1b"])
    h100 = find_gpu("H100")
    limits = gpu_models.limits_for(card, h100, 4096, 2)
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (512, 16_384)
    assert limits.gpu_memory_utilization == pytest.approx(0.45)
    load = LOADS["full"]["equal"]
    assert gpu_models.rows_for(load, card, h100, 0.1, limits) == 1024
    assert 1024 < gpu_models.rows_for(load, card, h100, 60, limits) < 20_000
    figure = {"rows": 10, "prompt_tokens": 10_240, "output_tokens": 1280}
    most = gpu_models.physical_limit(card, h100, load, figure)
    assert most is None or 10_000 < most < 10_000_000


def test_engines_side_by_side_count_until_the_last_answer() -> None:
    """Parts are added up over the common time; ratios in the table are round by round."""
    part = {"rows": 2, "prompt_tokens": 20, "output_tokens": 10, "cached_tokens": 0}
    part |= {"start_seconds": 1.0, "problem": ""}
    both = gpu_loads.combine([{**part, "begin": 1.0, "end": 3.0}, {**part, "begin": 2.0, "end": 5}])
    assert (both["rows"], both["seconds"], both["output_per_second"]) == (4, 4.0, 5.0)
    assert both["total_per_second"] == 15.0
    key = {"model": "1b", "load": "equal", "engines": 1, "kv_tokens": None}
    figures = [
        {**both, **key, "contender": name, "round": number, "percent": 50.0}
        | {"output_per_second": speed}
        for name, speeds in (("llm", (10.0, 20.0)), ("feed", (20.0, 10.0)))
        for number, speed in enumerate(speeds)
    ]
    figures.append({**key, "contender": "feed-input", "round": 0, "error": "why"})
    lines = gpu.table(figures).splitlines()
    assert "| feed | 1 | 4 | 15 (10 to 20) | 1.25 | 15 | 50.0 | 0% | 1 |" in lines[3]
    assert "| feed-input | 1 | failed |" in lines[4]
    assert len({line.count("|") for line in lines}) == 1
    assert "FAILED: why" in gpu.describe(figures[-1])


def test_it_works_from_a_bare_checkout() -> None:
    """With vLLM's own dependencies and nothing else: no Ray, nothing that reads specs or files."""
    code = (
        "import sys, benchmarks.gpu, gemma_batch.answering.feed, gemma_batch.engines.vllm; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'ray', 'pyarrow', 'pydantic', 'duckdb', 'fsspec', 'jinja2', 'yaml', 'rich'}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def _run(*options: str, timeout: float) -> str:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--scale", "tiny", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout,
    ).stdout


def test_a_contender_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    """One that is too late is reported; two engines side by side then answer all rows."""
    path = tmp_path / "figures.json"
    options = ["--loads", "equal,tail", "--keep-engine", "--rows", "50", "--json", str(path)]
    out = _run("--contenders", "echo", "--limit", "0", *options, timeout=240)
    assert "tiny equal echo x1 round 1: FAILED: not done after 0 s" in out
    _run("--contenders", "echo", "--engines", "1,2", *options, timeout=240)
    figures = json.loads(path.read_text())["figures"]
    assert [(f["engines"], f["load"], f["rows"], f["problem"]) for f in figures] == [
        (engines, load, 50, "") for engines in (1, 2) for load in ("equal", "tail")
    ]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.long
def test_both_contenders_answer_on_a_cpu(tmp_path: Path) -> None:
    """The whole program with real engines: figures for both, and a section for RESULTS.md."""
    results, path = tmp_path / "results.md", tmp_path / "figures.json"
    out = _run("--loads", "equal", "--json", str(path), "--results", str(results), timeout=500)
    content = json.loads(path.read_text())
    assert content["about"]["device"] == "CPU"
    assert [figure["contender"] for figure in content["figures"]] == ["llm", "feed"]
    for figure in content["figures"]:
        assert "error" not in figure, figure
        assert figure["problem"] == ""
        assert figure["output_tokens"] == figure["rows"] * LOADS["tiny"]["equal"].output
        assert figure["prompt_tokens"] == figure["rows"] * LOADS["tiny"]["equal"].prompt
        assert figure["output_per_second"] > 0
        assert figure["kv_tokens"] > 0
        assert gpu.describe(figure) in out
    section = results.read_text()
    assert "| tiny | equal | feed | 1 |" in section
    assert str(tmp_path) not in section
