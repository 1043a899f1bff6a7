"""Pipeline ceiling: rows/s of everything but the engine, beside the tokenizer alone.

    python -m benchmarks.ceiling --rows 40000

pipeline    the whole way with the echo engine at no limit: read, render, tokenize, feed, commit;
            from the first unit's start to the last commit
tokenizer   `tokenizers` alone on the same cores: the rendered prompts in one batch
copy        pyarrow alone: the input read and written as Parquet

And where a row's CPU time goes, stage by stage, each timed alone in one process over the same
units with as many threads as the stage itself uses.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common, inputs

SHARD_ROWS, GROUP_ROWS, UNIT_ROWS = 10_000, 1000, 2000
STAGED_UNITS = 4


def spec_of(folder: Path) -> Any:
    """The job over what `main` has written."""
    from gemma_batch.spec import JobSpec

    return JobSpec.from_dict(
        {
            "name": "ceiling",
            "input": {"path": f"{folder}/in/*.parquet", "id": "id"},
            "prompt": {"user": "Summarise:\n\n{{ doc }}", "overlong": "truncate_end"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": 32},
            "output": {"path": str(folder / "out")},
            "resources": {"engine": "echo", "max_model_len": 1024, "replicas": 1},
            "policy": {"unit_rows": UNIT_ROWS},
        }
    )


def pipeline(folder: Path) -> common.Figures:
    """The whole way."""
    import gemma_batch

    spec = spec_of(folder)
    report = gemma_batch.run(spec)
    receipts = common.receipts_of(spec.output.path)
    begin = common.ready_at(receipts)
    # The first units were read while the engine started: they count neither as work nor as time.
    early = [r for r in receipts if r["started"] <= begin + 1]
    begin = max((r["finished"] for r in early), default=begin)
    later = [r for r in receipts if r["finished"] > begin]
    seconds = max(r["finished"] for r in receipts) - begin
    return {"speed": sum(r["rows"] for r in later) / seconds, "rows": report.answered}


def tokenizer(folder: Path) -> common.Figures:
    """The prompts' texts to ids, all cores."""
    import pyarrow.parquet as pq

    from gemma_batch.prompts.tokens import Tokenizer

    tokens = Tokenizer.from_folder(folder / "model")
    docs = pq.read_table(folder / "in")["doc"].to_pylist()
    texts = [
        f"<bos><start_of_turn>user\nSummarise:\n\n{doc}<end_of_turn>\n<start_of_turn>model\n"
        for doc in docs
    ]
    raw = tokens._tokens
    raw.encode_batch_fast(texts[:200], add_special_tokens=False)
    begin = time.monotonic()
    count = 0
    for start in range(0, len(texts), UNIT_ROWS):
        encoded = raw.encode_batch_fast(texts[start : start + UNIT_ROWS], add_special_tokens=False)
        count += sum(len(one.ids) for one in encoded)
    return {"speed": len(texts) / (time.monotonic() - begin), "tokens": count / len(texts)}


def copy(folder: Path) -> common.Figures:
    """Parquet to Parquet."""
    import pyarrow.parquet as pq

    rows, begin = 0, time.monotonic()
    for path in sorted((folder / "in").iterdir()):
        table = pq.read_table(path)
        pq.write_table(table, folder / "copy.parquet", compression="zstd")
        rows += table.num_rows
    return {"speed": rows / (time.monotonic() - begin)}


def stages(folder: Path) -> common.Figures:
    """Seconds of CPU per 1,000 rows, stage by stage."""
    from gemma_batch.answering.feed import Feed
    from gemma_batch.committing.commit import commit_unit
    from gemma_batch.family.hardware import Hardware
    from gemma_batch.planning.plan import make_plan
    from gemma_batch.reading.prepare import Preparer
    from gemma_batch.reading.source import unit_rows
    from gemma_batch.storage.fs import open_store
    from gemma_batch.units.payload import decode, encode

    ready = make_plan(spec_of(folder)).placed(Hardware(gpu=None, cpus=2))
    job = ready.job(ready.routes[0])
    preparer, store = Preparer(job), open_store(str(folder / "staged"))
    shards, work = ready.survey.shards, ready.units()[: STAGED_UNITS + 1]
    spent: dict[str, float] = {}

    def timed(name: str, what: Callable[..., Any], *values: Any) -> Any:
        begin = time.process_time()
        found = what(*values)
        if counted:
            spent[name] = spent.get(name, 0.0) + time.process_time() - begin
        return found

    loop = asyncio.new_event_loop()
    from gemma_batch.engines.base import make_engine

    feed = Feed(
        lambda: make_engine(job.engine),
        in_flight=job.in_flight,
        policy=job.policy,
        order=job.order,
    )
    loop.run_until_complete(feed.start())
    rows = 0
    for number, unit in enumerate(work):
        counted = number > 0  # the first warms up
        timed("read", unit_rows, shards, unit, job.columns)
        prepared = timed("read + render + tokenize", preparer.prepare, shards, unit)
        table = timed("encode", encode, prepared)
        head, data = table["unit"][0].as_py(), table["rows"][0].as_buffer()
        prepared = timed("decode", decode, head, data)
        answers = timed(
            "feed + echo", lambda p=prepared: loop.run_until_complete(feed.run(p.requests))
        )
        timed("commit", commit_unit, store, job, prepared, answers, {})
        rows += unit.rows if counted else 0
    loop.run_until_complete(feed.close())
    spent["render + tokenize"] = spent.pop("read + render + tokenize") - spent["read"]
    return {name: 1000 * seconds / rows for name, seconds in spent.items()}


CONTENDERS = {"pipeline": pipeline, "tokenizer": tokenizer, "copy": copy, "stages": stages}


def table(found: dict[str, list[common.Figures]]) -> str:
    """Speeds, the ratio that is aimed at, and the stages."""
    names = ["pipeline", "tokenizer", "copy"]
    rows = [[name, common.spread(found[name], "speed", 0)] for name in names]
    share = common.ratio(found, "pipeline", "tokenizer", "speed")
    order = ["read", "render + tokenize", "encode", "decode", "feed + echo", "commit"]
    spent = [[name, f"{common.median(found['stages'], name) * 1000:.0f}"] for name in order]
    spent.append(["sum", f"{sum(float(value) for _, value in spent):.0f}"])
    return (
        common.markdown(["", "rows/s"], rows)
        + f"\n\nThe pipeline is at {common.ratio_text(share)} of the tokenizer alone "
        + "(aim: 0.7).\n\n"
        + common.markdown(["stage", "CPU ms per 1,000 rows"], spent)
    )


def main() -> None:
    """Parse, prepare, alternate, print."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--chars", type=int, nargs="+", default=[300, 2000], help="of a document")
    options = parser.parse_args()
    if options.child:
        common.report_figures(options.folder, CONTENDERS[options.child](options.folder))
        return
    for chars in options.chars:
        one_length(options, chars)


def one_length(options: argparse.Namespace, chars: int) -> None:
    """All contenders over documents of one length."""
    with tempfile.TemporaryDirectory(prefix="ceiling-") as name:
        folder = Path(name)
        inputs.tiny_model(folder)
        words = "\n\n".join(inputs.texts(5000, 6000))
        docs = [words[i : i + chars] for i in range(0, len(words) - chars, chars)]
        inputs.write_rows(
            folder / "in", options.rows, docs, shard_rows=SHARD_ROWS, group_rows=GROUP_ROWS
        )

        def run(contender: str) -> common.Figures | None:
            with tempfile.TemporaryDirectory(dir=folder) as one:
                for shared in ("in", "model"):
                    (Path(one) / shared).symlink_to(folder / shared)
                return common.measure("benchmarks.ceiling", contender, Path(one))

        found = common.in_turn(list(CONTENDERS), options.rounds, run, minutes=options.minutes)
    about = f"{options.rows:,} documents, {common.median(found['tokenizer'], 'tokens'):.0f} tokens."
    title = f"pipeline ceiling, echo engine, documents of {chars:,} characters"
    common.publish(options, title, table(found), found, about=about)


if __name__ == "__main__":
    main()
