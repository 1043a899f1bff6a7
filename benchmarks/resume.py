"""Resume: how long a start takes to find that 100,000 parts are committed, on disk and on S3.

    python -m benchmarks.resume --parts 100000

The output is made by this project's own code, except that all parts but the first are copies of
it under their own names. S3 is moto's server. Printed per kind of storage:

bare list   seconds that listing the parts takes with boto3, or os.scandir: nobody is faster
decision    seconds from the call of `run` until it knows that no unit is left
report      seconds from then until the report is written
engines     engines that were started (aim: none); Ray is not even started
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import common, inputs
from benchmarks.s3_server import BUCKET, s3_server


def plan(folder: Path, output: str, parts: int) -> Any:
    """The plan of a job with one row per unit."""
    from gemma_batch.family.hardware import Hardware
    from gemma_batch.planning.plan import make_plan
    from gemma_batch.spec import JobSpec

    spec = JobSpec.from_dict(
        {
            "name": "resume",
            "input": {"path": f"{folder}/in/*.parquet", "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": 4},
            "output": {"path": output},
            "resources": {"engine": "echo", "max_model_len": 256, "replicas": 1},
            "policy": {"unit_rows": 1},
        }
    )
    return make_plan(spec).placed(Hardware(gpu=None, cpus=2))


def first_part(ready: Any, units: list[Any], run: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes of one committed part, and its receipt."""
    from gemma_batch.committing.commit import commit_unit
    from gemma_batch.reading.prepare import Preparer
    from gemma_batch.rows import Completion
    from gemma_batch.storage.fs import open_store

    with tempfile.TemporaryDirectory() as name:
        job, unit = replace(ready.job(ready.routes[0]), run=run), units[0]
        prepared = Preparer(job).prepare(ready.survey.shards, unit)
        answer = Completion(["an answer"], ["stop"], 12, 4)
        facts = {"started": time.time(), "worker": "none", "engine_ready": time.time()}
        receipt = commit_unit(
            open_store(name), job, prepared, dict.fromkeys(prepared.numbers, answer), facts
        )
        return (Path(name) / "results" / unit.name).read_bytes(), receipt


def fill(folder: Path, output: str, parts: int, put: Any) -> None:
    """Make the output; `put(key, bytes)` stores an object below it."""
    from gemma_batch.committing.ledger import save_receipts
    from gemma_batch.committing.manifest import create_manifest
    from gemma_batch.storage.fs import open_store

    ready = plan(folder, output, parts)
    units = ready.units()
    store = open_store(output)
    manifest = create_manifest(
        store,
        name="resume",
        fingerprint=ready.fingerprint(),
        shards=ready.survey.shards,
        units=units,
        spec=ready.spec.to_dict(),
        facts={},
    )
    data, receipt = first_part(ready, units, manifest.run)
    for unit in units:
        put(unit.path, data)
    save_receipts(store, [{**receipt, "part": unit.name} for unit in units])


class Watch:
    """A progress display that keeps when each phase began."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}

    def update(self, snapshot: Any) -> None:
        """See `Progress`."""
        self.phases.setdefault(snapshot.phase, time.monotonic())

    def say(self, message: str) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


def bare_list(folder: Path, place: str) -> float:
    """Seconds to list the parts by the storage's own means."""
    import os

    import boto3  # type: ignore[import-untyped]

    begun = time.monotonic()
    if place == "s3":
        pages = boto3.client("s3").get_paginator("list_objects_v2")
        count = sum(len(page["Contents"]) for page in pages.paginate(Bucket=BUCKET, Prefix="out/"))
    else:
        count = sum(1 for _ in os.scandir(folder / "out" / "results"))
    assert count
    return time.monotonic() - begun


def child(folder: Path, place: str, parts: int) -> common.Figures:
    """One start on a complete output."""
    import sys

    import gemma_batch

    output = f"s3://{BUCKET}/out" if place == "s3" else str(folder / "out")
    spec = plan(folder, output, parts).spec
    watch = Watch()
    listing = bare_list(folder, place)
    begun = time.monotonic()
    report = gemma_batch.run(spec, progress=watch)
    ended, decided = time.monotonic(), watch.phases["writing the report"]
    assert report.answered == parts, report.answered
    ray = sys.modules.get("ray")
    return {
        "parts": parts,
        "list": listing,
        "decision": decided - begun,
        "report": ended - decided,
        "engines": int("starting engines" in watch.phases),
        "ray": int(ray is not None and ray.is_initialized()),
    }


def on_s3(folder: Path, parts: int) -> common.Figures | None:
    """The measurement against a server of its own."""
    with s3_server() as server:
        batch: list[str] = []
        last = b""

        def put(key: str, data: bytes) -> None:
            nonlocal last
            batch.append(f"out/{key}")
            last = data

        fill(folder, f"s3://{BUCKET}/out", parts, put)
        server.put(batch, last)
        server.filled()
        return common.measure("benchmarks.resume", "s3", folder, "--parts", str(parts))


def on_disk(folder: Path, parts: int) -> common.Figures | None:
    """The measurement on the local disk."""
    out = folder / "out"
    (out / "results").mkdir(parents=True)

    def put(key: str, data: bytes) -> None:
        (out / key).write_bytes(data)

    fill(folder, str(out), parts, put)
    return common.measure("benchmarks.resume", "local", folder, "--parts", str(parts))


def main() -> None:
    """Parse, prepare, run both, print."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--parts", type=int, default=100_000)
    options = parser.parse_args()
    if options.child:
        common.report_figures(options.folder, child(options.folder, options.child, options.parts))
        return
    kinds = {"local": on_disk, "s3": on_s3}

    def run(name: str) -> common.Figures | None:
        with tempfile.TemporaryDirectory(prefix="resume-") as one:
            folder = Path(one)
            inputs.tiny_model(folder)
            inputs.write_rows(
                folder / "in", options.parts, inputs.texts(), shard_rows=25_000, group_rows=1000
            )
            return kinds[name](folder, options.parts)

    found = common.in_turn(list(kinds), options.rounds, run, minutes=options.minutes)
    rows = [
        [
            name,
            f"{options.parts:,}",
            common.spread(runs, "list"),
            common.spread(runs, "decision"),
            common.spread(runs, "report"),
            f"{common.median(runs, 'engines'):.0f}",
        ]
        for name, runs in found.items()
    ]
    head = ["storage", "parts", "bare list s", "decision s", "report s", "engines started"]
    text = common.markdown(head, rows)
    common.publish(options, "resume, nothing left to do", text, found)


if __name__ == "__main__":
    main()
