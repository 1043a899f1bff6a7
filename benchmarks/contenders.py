"""Who answers the same rows: bare vLLM, this project, `ray.data.llm`, `vllm run-batch`.

Each is a function that runs in a process of its own (see `common.measure`) over a folder that
`prepare` has made, and returns figures: `rows`, `tokens` (output), `cached` (share of prompt tokens
from the prefix cache), `steady` (rows/s from the first row submitted to a ready engine until the
last answer), `first` (seconds from the start of the process to the first durable answer).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Figures

PEER_BLOCK_ROWS, PEER_BATCHES = 64, 16  # found to be the fastest for ray.data.llm here
SHARDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all contenders have in common. `kv_gib` is the KV cache; `kv_bytes` overrides it."""

    max_tokens: int
    model_len: int = 1024
    seqs: int = 256
    batched: int = 4096
    kv_gib: int = 1
    kv_bytes: int | None = None

    @property
    def engine(self) -> dict[str, Any]:
        """vLLM's arguments for it."""
        given: dict[str, Any] = {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": self.model_len,
            "language_model_only": True,
            "enable_prefix_caching": True,
        }
        if self.kv_bytes is not None:
            given["kv_cache_memory_bytes"] = self.kv_bytes
        return given

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which vLLM learns the size; it would override the argument."""
        return {} if self.kv_bytes else {"VLLM_CPU_KVCACHE_SPACE": str(self.kv_gib)}

    @property
    def limits(self) -> dict[str, Any]:
        """Batch limits, which ray.data.llm as shipped leaves to vLLM."""
        return {"max_num_seqs": self.seqs, "max_num_batched_tokens": self.batched}


@dataclass(frozen=True, slots=True)
class Doc:
    """One row: its text, and how many tokens its answer has."""

    text: str
    tokens: int
    more: dict[str, Any] = field(default_factory=dict)


def prepare(folder: Path, docs: Sequence[Doc], setup: Setup, model: dict[str, Any]) -> None:
    """A tiny model, the documents, the spec, and the prompts that the spec renders to.

    `model` are arguments of `build_tiny_gemma`. Every row has its own `max_tokens`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    from gemma_batch.family.hardware import Hardware
    from gemma_batch.family.tiny import build_tiny_gemma
    from gemma_batch.planning.plan import make_plan
    from gemma_batch.prompts.rendered import token_ids
    from gemma_batch.reading.prepare import Preparer
    from gemma_batch.spec import JobSpec

    folder.mkdir(parents=True, exist_ok=True)
    build_tiny_gemma(folder / "model", texts=[doc.text for doc in docs[:2000]], **model)
    (folder / "docs").mkdir()
    size = -(-len(docs) // SHARDS)
    for shard in range(SHARDS):
        mine = list(enumerate(docs))[shard * size :][:size]
        table = pa.table(
            {
                "id": [f"{number:07d}" for number, _ in mine],
                "doc": [doc.text for _, doc in mine],
                "params": [json.dumps({"max_tokens": doc.tokens}) for _, doc in mine],
            }
        )
        pq.write_table(table, folder / "docs" / f"{shard:02d}.parquet")
    spec = {
        "name": "benchmark",
        "input": {"path": f"{folder}/docs/*.parquet", "id": "id"},
        "prompt": {"user": "{{ doc }}", "params": "params"},
        "model": str(folder / "model"),
        "sampling": {"temperature": 0, "max_tokens": setup.max_tokens, "ignore_eos": True},
        "output": {"path": str(folder / "out")},
        "resources": {
            "device": "cpu",
            "max_model_len": setup.model_len,
            **setup.limits,
            "cpu_kv_cache_gib": setup.kv_gib,
            "replicas": 1,
            "engine_args": {"kv_cache_memory_bytes": setup.kv_bytes} if setup.kv_bytes else {},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(spec))
    plan = make_plan(JobSpec.from_dict(spec)).placed(Hardware(gpu=None, cpus=os.cpu_count() or 1))
    preparer = Preparer(plan.job(plan.routes[0]))
    prompts = []
    for unit in plan.units():
        prepared = preparer.prepare(plan.survey.shards, unit)
        if prepared.failures:
            raise SystemExit(f"a row does not fit: {next(iter(prepared.failures.values()))}")
        prompts += [token_ids(request.prompt) for request in prepared.requests]
    rows = [{"ids": ids, "max_tokens": doc.tokens} for ids, doc in zip(prompts, docs, strict=True)]
    (folder / "prompts.json").write_text(json.dumps(rows))
    (folder / "setup.json").write_text(json.dumps(asdict(setup)))
    with (folder / "batch.jsonl").open("w") as file:
        for number, doc in enumerate(docs):
            body = {
                "model": str(folder / "model"),
                "messages": [{"role": "user", "content": doc.text}],
                "max_tokens": doc.tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            line = {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            file.write(json.dumps(line) + "\n")


def _load(folder: Path) -> tuple[Setup, list[dict[str, Any]]]:
    setup = Setup(**json.loads((folder / "setup.json").read_text()))
    return setup, json.loads((folder / "prompts.json").read_text())


def llm_generate(folder: Path, started: float) -> Figures:
    """`LLM.generate` with all prompts at once: the engine's own speed.

    `first` is when one answer alone, asked for first, could have been had.
    """
    from vllm import LLM, SamplingParams

    setup, rows = _load(folder)
    llm = LLM(model=str(folder / "model"), **setup.engine, **setup.limits)
    llm.generate(
        [{"prompt_token_ids": [2, 5, 6]}],
        SamplingParams(temperature=0, max_tokens=rows[0]["max_tokens"], ignore_eos=True),
        use_tqdm=False,
    )
    first = time.time() - started
    begin = time.time()
    outputs = llm.generate(
        [{"prompt_token_ids": row["ids"]} for row in rows],
        [
            SamplingParams(temperature=0, max_tokens=row["max_tokens"], ignore_eos=True)
            for row in rows
        ],
        use_tqdm=False,
    )
    end = time.time()
    prompt = sum(len(row["ids"]) for row in rows)
    return {
        "rows": len(outputs),
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "cached": sum(output.num_cached_tokens or 0 for output in outputs) / prompt,
        "steady": len(outputs) / (end - begin),
        "first": first,
    }


def gemma_batch(folder: Path, started: float, *, order: str = "auto") -> Figures:
    """The whole way: Ray Data, reading, rendering, the feed, committed Parquet."""
    import gemma_batch as ours

    shutil.rmtree(folder / "out", ignore_errors=True)
    spec = ours.JobSpec.load(folder / "job.yaml", [f"resources.order={order}"])
    report = ours.run(spec)
    receipts = common.receipts_of(str(folder / "out"))
    begin = common.ready_at(receipts)
    finished = [r["finished"] for r in receipts]
    return {
        "rows": report.answered,
        "tokens": report.completion_tokens,
        "cached": report.cached_tokens / report.prompt_tokens,
        "steady": report.answered / (max(finished) - begin),
        "first": min(finished) - started,
        "starved": max(r["starved"] for r in receipts),
        "engine_time": report.engine_time,
    }


def peer_config(
    model: Path, engine: dict[str, Any], environment: dict[str, str], **extra: Any
) -> Any:
    """`ray.data.llm`'s configuration for one engine on the CPU that is given token ids."""
    from ray.data.llm import vLLMEngineProcessorConfig

    return vLLMEngineProcessorConfig(
        model_source=str(model),
        engine_kwargs={**engine, "distributed_executor_backend": "mp"},
        runtime_env={"env_vars": environment},
        placement_group_config={"bundles": [{"CPU": 1}]},
        batch_size=32,
        concurrency=(1, 1),
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        **extra,
    )


def ray_data_llm(folder: Path, started: float, *, tuned: bool = False) -> Figures:
    """`ray.data.llm` as shipped, or with limits and block shape put right.

    Token ids go in, so that its prompts have one BOS like everybody's.
    """
    import ray
    from ray.data.llm import build_processor

    setup, rows = _load(folder)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    engine, extra = setup.engine, {}
    if tuned:
        engine, extra = engine | setup.limits, {"max_concurrent_batches": PEER_BATCHES}
    config = peer_config(folder / "model", engine, setup.environment, **extra)
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "tokenized_prompt": row["ids"],
            "sampling_params": {
                "temperature": 0,
                "max_tokens": row["max_tokens"],
                "ignore_eos": True,
            },
        },
        postprocess=lambda row: {
            "tokens": row["num_generated_tokens"],
            "took": row["time_taken_llm"],
            "at": time.time(),
        },
    )
    blocks = max(8, len(rows) // PEER_BLOCK_ROWS)
    dataset = processor(ray.data.from_items(rows, override_num_blocks=blocks))
    answers: list[dict[str, float]] = []
    first = 0.0
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        first = first or time.time()
        answers += batch.to_pylist()
    begin = min(row["at"] - row["took"] for row in answers)
    return {
        "rows": len(answers),
        "tokens": sum(row["tokens"] for row in answers),
        "steady": len(answers) / (max(row["at"] for row in answers) - begin),
        "first": first - started,
    }


def run_batch(folder: Path, started: float) -> Figures:
    """`vllm run-batch` by its own functions, timed around them; its file comes at the very end."""
    import asyncio

    from vllm.entrypoints.launchers import run_batch as program
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    setup, rows = _load(folder)
    words = ["-i", str(folder / "batch.jsonl"), "-o", str(folder / "answers.jsonl")]
    words += ["--model", str(folder / "model")]
    for name, value in {**setup.engine, **setup.limits}.items():
        option = "--" + name.replace("_", "-")
        words += [option] if value is True else [option, str(value)]
    args = program.make_arg_parser(FlexibleArgumentParser()).parse_args(words)

    async def answer() -> tuple[float, float]:
        program.validate_run_batch_args(args)
        async with build_async_engine_client(args) as client:
            begin = time.time()
            await program.run_batch(client, args)
            return begin, time.time()

    begin, end = asyncio.run(answer())
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    usages = [line["response"]["body"]["usage"] for line in lines]
    return {
        "rows": len(lines),
        "tokens": sum(usage["completion_tokens"] for usage in usages),
        "steady": len(rows) / (end - begin),
        "first": end - started,
    }


def gemma_batch_in_input_order(folder: Path, started: float) -> Figures:
    """This project with `order: input`."""
    return gemma_batch(folder, started, order="input")


def ray_data_llm_tuned(folder: Path, started: float) -> Figures:
    """See `ray_data_llm`."""
    return ray_data_llm(folder, started, tuned=True)


CONTENDERS: dict[str, Callable[[Path, float], Figures]] = {
    "LLM.generate": llm_generate,
    "gemma_batch": gemma_batch,
    "gemma_batch input order": gemma_batch_in_input_order,
    "ray.data.llm": ray_data_llm,
    "ray.data.llm tuned": ray_data_llm_tuned,
    "vllm run-batch": run_batch,
}
