"""Throughput: `vllm.LLM.generate`, this project and `ray.data.llm` over the same rows.

    python -m benchmarks.throughput --rows 2000 --rounds 3

Every contender runs in a process of its own, in turn, `rounds` times. All answer the same
rendered prompts (token ids, one BOS) with the same engine limits and greedy sampling.

steady rows/s   rows over the seconds from the moment the engine could answer to the last row:
                `LLM.generate` is timed around the call; for the other two the start is when their
                first request reached a ready engine.
first row       seconds from the process's start to the first row that is durable (this project:
                a committed part) or in hand (the others: the first batch that is given out).
total           seconds from the process's start to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SEQS, BATCHED, MODEL_LEN, KV_GIB = 256, 4096, 1024, 1
CONTENDERS = ("LLM.generate", "gemma_batch", "ray.data.llm", "ray.data.llm tuned")


def prepare(folder: Path, rows: int, max_tokens: int) -> None:
    """A tiny model, the documents, the spec, and the prompts that the spec renders to."""
    import pyarrow.parquet as pq
    import yaml

    from gemma_batch.family.tiny import build_tiny_gemma
    from gemma_batch.run.plan import Hardware, make_plan
    from gemma_batch.run.prepare import Preparer
    from gemma_batch.spec import JobSpec
    from jobs.stdlib_docs import write_docs

    write_docs(folder / "docs", rows=rows, shards=8)
    texts = pq.read_table(folder / "docs", columns=["doc"])["doc"].to_pylist()
    build_tiny_gemma(folder / "model", texts=texts[:2000])
    data = {
        "name": "throughput",
        "input": {"path": f"{folder}/docs/*.parquet", "id": "id"},
        "prompt": {"user": "Summarise:\n\n{{ doc }}", "overlong": "truncate_end"},
        "model": str(folder / "model"),
        "sampling": {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True},
        "output": {"path": str(folder / "out")},
        "resources": {
            "device": "cpu",
            "max_model_len": MODEL_LEN,
            "max_num_seqs": SEQS,
            "max_num_batched_tokens": BATCHED,
            "cpu_kv_cache_gib": KV_GIB,
            "replicas": 1,
        },
        "policy": {"unit_rows": max(64, rows // 16)},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    plan = make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None, cpus=os.cpu_count() or 1))
    preparer = Preparer(plan.job(plan.routes[0]))
    prompts = []
    for unit in plan.units():
        prepared = preparer.prepare(plan.survey.shards[unit.shard], unit)
        prompts += [request.token_ids for request in prepared.requests]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def run_llm(folder: Path, max_tokens: int, started: float) -> dict[str, float]:
    """All prompts at once: the engine's own speed."""
    from vllm import LLM, SamplingParams

    prompts = [
        {"prompt_token_ids": ids} for ids in json.loads((folder / "prompts.json").read_text())
    ]
    llm = LLM(
        model=str(folder / "model"),
        dtype="float32",
        enforce_eager=True,
        max_model_len=MODEL_LEN,
        max_num_seqs=SEQS,
        max_num_batched_tokens=BATCHED,
        language_model_only=True,
    )
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    begin = time.time()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    end = time.time()
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "rows": len(outputs),
        "tokens": tokens,
        "steady": len(outputs) / (end - begin),
        "first": end - started,
    }


def run_ours(folder: Path, started: float) -> dict[str, float]:
    """The whole way: Ray Data, reading, rendering, the feed, committed Parquet."""
    import gemma_batch
    from gemma_batch.run.ledger import Ledger
    from gemma_batch.storage.fs import open_store

    shutil.rmtree(folder / "out", ignore_errors=True)
    report = gemma_batch.run(gemma_batch.JobSpec.load(folder / "job.yaml"))
    receipts = list(Ledger(open_store(str(folder / "out"))).receipts().values())
    begin = max(min(r["started"] for r in receipts), min(r["engine_ready"] for r in receipts))
    finished = [r["finished"] for r in receipts]
    return {
        "rows": report.answered,
        "tokens": report.completion_tokens,
        "steady": report.answered / (max(finished) - begin),
        "first": min(finished) - started,
    }


def run_ray_llm(folder: Path, max_tokens: int, started: float, *, tuned: bool) -> dict[str, float]:
    """`ray.data.llm` as shipped, or with limits and block shape put right."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    prompts = json.loads((folder / "prompts.json").read_text())
    engine = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": MODEL_LEN,
        "language_model_only": True,
        "distributed_executor_backend": "mp",
    }
    extra: dict[str, Any] = {}
    if tuned:
        engine |= {"max_num_seqs": SEQS, "max_num_batched_tokens": BATCHED}
        extra = {"max_concurrent_batches": 16}
    config = vLLMEngineProcessorConfig(
        model_source=str(folder / "model"),
        engine_kwargs=engine,
        runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": str(KV_GIB)}},
        placement_group_config={"bundles": [{"CPU": 1}]},
        batch_size=32,
        concurrency=(1, 1),
        # Token ids go in, so that all contenders answer prompts with one BOS.
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        **extra,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "tokenized_prompt": row["ids"],
            "sampling_params": {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True},
        },
        postprocess=lambda row: {
            "tokens": row["num_generated_tokens"],
            "took": row["time_taken_llm"],
            "at": time.time(),
        },
    )
    blocks = max(8, len(prompts) // 64)
    dataset = processor(
        ray.data.from_items([{"ids": ids} for ids in prompts], override_num_blocks=blocks)
    )
    rows: list[dict[str, float]] = []
    first = 0.0
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        first = first or time.time()
        rows += batch.to_pylist()
    begin = min(row["at"] - row["took"] for row in rows)
    return {
        "rows": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "steady": len(rows) / (max(row["at"] for row in rows) - begin),
        "first": first - started,
    }


def child(name: str, folder: Path, max_tokens: int, started: float) -> None:
    """One contender, in this process; its figures go to a file."""
    if name == "LLM.generate":
        figures = run_llm(folder, max_tokens, started)
    elif name == "gemma_batch":
        figures = run_ours(folder, started)
    else:
        figures = run_ray_llm(folder, max_tokens, started, tuned=name.endswith("tuned"))
    figures["total"] = time.time() - started
    (folder / "figures.json").write_text(json.dumps(figures))


def measure(name: str, folder: Path, max_tokens: int) -> dict[str, float] | None:
    """Run one contender in a fresh process; None (and its last words) when it fails."""
    (folder / "figures.json").unlink(missing_ok=True)
    env = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    command = [sys.executable, "-m", "benchmarks.throughput", "--child", name]
    command += ["--folder", str(folder), "--max-tokens", str(max_tokens)]
    command += ["--started", str(time.time())]
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("w") as out:
        code = subprocess.run(command, env=env, stdout=out, stderr=out, check=False).returncode
    with contextlib.suppress(FileNotFoundError):
        return dict(json.loads((folder / "figures.json").read_text()))
    print(f"{name} failed (exit code {code}):\n{log.read_text()[-1500:]}", file=sys.stderr)
    return None


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Medians, spread and ratios as Markdown."""
    lines = [
        "| contender | steady rows/s (min to max) | vs LLM.generate | ours vs it | first row s "
        "| total s | output tokens |",
        "|---|---|---|---|---|---|---|",
    ]

    def median(name: str, figure: str) -> float:
        return statistics.median(run[figure] for run in results[name])

    def ratio(one: str, other: str) -> str:
        pairs = zip(results.get(one, []), results.get(other, []), strict=False)
        ratios = [a["steady"] / b["steady"] for a, b in pairs]
        return f"{statistics.median(ratios):.2f}" if ratios else "-"

    for name, runs in results.items():
        if not runs:
            lines.append(f"| {name} | failed | - | - | - | - | - |")
            continue
        steady = [run["steady"] for run in runs]
        lines.append(
            f"| {name} | {median(name, 'steady'):.1f} ({min(steady):.1f} to {max(steady):.1f}) "
            f"| {ratio(name, 'LLM.generate')} | {ratio('gemma_batch', name)} "
            f"| {median(name, 'first'):.1f} | {median(name, 'total'):.1f} "
            f"| {median(name, 'tokens'):,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, prepare, alternate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options.max_tokens, options.started)
        return
    names = options.contenders.split(",")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        prepare(folder, options.rows, options.max_tokens)
        for number in range(options.rounds):
            for contender in names:
                figures = measure(contender, folder, options.max_tokens)
                if figures is not None:
                    results[contender].append(figures)
                    print(f"round {number + 1} {contender}: {figures}", file=sys.stderr, flush=True)
    print(
        f"{options.rows} rows, max_tokens {options.max_tokens}, {options.rounds} rounds, "
        f"{os.cpu_count()} cores"
    )
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
