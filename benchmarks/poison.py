"""One row that kills the engine process, among many: this project and `ray.data.llm`.

    python -m benchmarks.poison --rows 10000 --limit 300

Both run the same documents with vLLM on the CPU and write Parquet; after `limit` seconds without
an end a contender is stopped. Printed are the rows that are durable then, the engine starts, and
what the run said last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml

from benchmarks.contenders import peer_config

SEQS, BATCHED, MODEL_LEN, KV_GIB = 256, 4096, 1024, 1

MARK = "harmless zq zq zq poison zq"
PLACE = 0.37  # where the row is, as a share of the input
CONTENDERS = ("gemma_batch", "ray.data.llm", "ray.data.llm continue on error")


def prepare(folder: Path, rows: int) -> None:
    """Documents, one of which kills; a tiny model; the spec; the prompts for ray.data.llm."""
    import pyarrow as pa

    from gemma_batch.family.tiny import build_tiny_gemma
    from gemma_batch.prompts.tokens import Tokenizer
    from jobs.stdlib_docs import collect

    docs = [{"id": doc["id"], "doc": doc["doc"][:400]} for doc in collect(rows)]
    docs[int(rows * PLACE)]["doc"] = MARK
    (folder / "docs").mkdir()
    size = -(-rows // 8)
    for shard in range(8):
        part = docs[shard * size : (shard + 1) * size]
        pq.write_table(pa.Table.from_pylist(part), folder / "docs" / f"{shard}.parquet")
    model = build_tiny_gemma(folder / "model", texts=[doc["doc"] for doc in docs[:2000]])
    tokenizer = Tokenizer.from_folder(str(model))
    needle = tokenizer.encode(MARK)[-6:]
    for name in ("gemma_batch", "ray.data.llm"):
        settings = {"poison": needle, "tally": str(folder / f"{name}.tally")}
        (folder / f"{name}.json").write_text(json.dumps(settings))
    spec = {
        "name": "poison",
        "input": {"path": f"{folder}/docs/*.parquet", "id": "id"},
        "prompt": {"user": "{{ doc }}"},
        "model": str(model),
        "sampling": {"temperature": 0, "max_tokens": 8},
        "output": {"path": str(folder / "gemma_batch")},
        "resources": {
            "device": "cpu",
            "replicas": 1,
            "max_model_len": MODEL_LEN,
            "max_num_seqs": SEQS,
            "max_num_batched_tokens": BATCHED,
            "cpu_kv_cache_gib": KV_GIB,
            "engine_args": {
                "logits_processors": ["benchmarks.killer:Poison"],
                "additional_config": json.loads((folder / "gemma_batch.json").read_text()),
            },
        },
        "policy": {"unit_rows": 512, "max_failed": 1},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(spec))
    prompts = [
        {"id": doc["id"], "ids": tokenizer.encode(tokenizer.chat.render(_messages(doc["doc"])))}
        for doc in docs
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def run_ray_llm(folder: Path, *, on_error: bool) -> None:
    """`ray.data.llm` with the same engine limits, its rows written as Parquet."""
    import ray
    from ray.data.llm import build_processor

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    engine = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": MODEL_LEN,
        "max_num_seqs": SEQS,
        "max_num_batched_tokens": BATCHED,
        "language_model_only": True,
        "logits_processors": ["benchmarks.killer:Poison"],
        "additional_config": json.loads((folder / "ray.data.llm.json").read_text()),
    }
    config = peer_config(
        folder / "model",
        engine,
        {"VLLM_CPU_KVCACHE_SPACE": str(KV_GIB)},
        max_concurrent_batches=16,
        should_continue_on_error=on_error,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "id": row["id"],
            "tokenized_prompt": row["ids"],
            "sampling_params": {"temperature": 0, "max_tokens": 8},
        },
        postprocess=lambda row: {"id": row["id"], "tokens": row["num_generated_tokens"]},
    )
    prompts = json.loads((folder / "prompts.json").read_text())
    dataset = ray.data.from_items(prompts, override_num_blocks=max(8, len(prompts) // 64))
    processor(dataset).write_parquet(str(folder / "ray.data.llm" / "results"))


def command(name: str, folder: Path) -> list[str]:
    """A contender as a process."""
    if name == "gemma_batch":
        return [sys.executable, "-m", "gemma_batch.cli", "run", str(folder / "job.yaml")]
    extra = ["--on-error"] if name.endswith("on error") else []
    return [sys.executable, "-m", "benchmarks.poison", "--child", str(folder), *extra]


def measure(name: str, folder: Path, limit: float) -> dict[str, Any]:
    """Run one contender for at most `limit` seconds."""
    base = name.split(" continue")[0]
    env = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    results, tally = folder / base / "results", folder / f"{base}.tally"
    for path in (*results.glob("*"), tally):
        path.unlink(missing_ok=True)
    log = folder / "contender.log"
    started = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            command(name, folder), env=env, stdout=out, stderr=out, start_new_session=True
        )
        try:
            end = f"exit code {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            end = f"no end within {limit:g} s"
    seconds = time.monotonic() - started
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(10)  # the cluster's processes notice that their driver is gone
    rows = ds.dataset(results).count_rows() if any(results.glob("*.parquet")) else 0
    words = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return {
        "contender": name,
        "end": end,
        "seconds": round(seconds, 1),
        "rows": rows,
        "starts": tally.stat().st_size if tally.exists() else 0,
        "last words": words[-1][:160] if words else "",
    }


def main() -> None:
    """Parse, run in turn, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=300, help="seconds for ray.data.llm")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on-error", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_ray_llm(options.child, on_error=options.on_error)
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="poison-") as name:
        folder = Path(name)
        prepare(folder, options.rows)
        for contender in CONTENDERS:
            limit = 1800 if contender == "gemma_batch" else options.limit
            found.append(measure(contender, folder, limit))
            print(found[-1], file=sys.stderr, flush=True)
    print(f"{options.rows:,} rows, one of them kills the engine process; {os.cpu_count()} cores\n")
    print("| contender | end | seconds | durable rows | engine starts |\n|---|---|---|---|---|")
    for one in found:
        print(
            f"| {one['contender']} | {one['end']} | {one['seconds']:.0f} | {one['rows']:,} | "
            f"{one['starts']} |"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
