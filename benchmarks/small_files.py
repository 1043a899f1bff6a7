"""Small files: the same rows in one-row Parquet files and in 10 files, with the echo engine.

    python -m benchmarks.small_files --files 100000 --places local s3

Short documents, no model. S3 is moto's server, one Python process: what it answers by itself, to
bare GET requests, is printed beside the figures that hang on it. Of the one-row files, one is
broken before the start, and one is deleted when the units are cut: two rows fail. Printed:

parts     parts that were committed (aim: at most 500 for 100,000 files)
failed    rows without an answer (aim: 2, and 0 for 10 files)
plan s    seconds until the units are cut and the manifest is there, on a Ray that runs already
work s    seconds from the first unit's start to the last commit, and rows/s in that time
seconds   seconds in all, and rows/s in that time
"""

from __future__ import annotations

import argparse
import http.client
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import common, inputs
from benchmarks.s3_server import BUCKET, s3_server

FEW = 10
LAYOUTS = ("one-row files", f"{FEW} files")
PROBES, PROBERS = 4000, 4
CUTTING = "cutting the input into units"
BROKEN, GONE = 0.4, 0.9  # where in the input these files are


def files_of(layout: str, rows: int) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    docs = inputs.texts()
    size = 1 if layout == LAYOUTS[0] else -(-rows // FEW)
    broken = int(rows * BROKEN) if size == 1 else -1
    for start in range(0, rows, size):
        numbers = range(start, min(start + size, rows))
        table = pa.table({"id": numbers, "doc": [docs[n % len(docs)] for n in numbers]})
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=25_000)
        data = sink.getvalue()
        yield f"{start // size:06d}.parquet", data[:-8] if start == broken else data


class Watch:
    """A progress display that keeps when each phase began; it deletes a file when units are cut."""

    def __init__(self, store: Any, gone: str | None) -> None:
        self.phases: dict[str, float] = {}
        self._store, self._gone = store, gone
        self.deleted: bytes | None = None

    def update(self, snapshot: Any) -> None:
        """See `Progress`."""
        if self._gone and not self.deleted and CUTTING in self.phases and snapshot.phase != CUTTING:
            self.deleted = self._store.read(self._gone)
            self._store.delete(self._gone)
        self.phases.setdefault(snapshot.phase, time.monotonic())

    def say(self, message: str) -> None:
        """See `Progress`."""
        print(message, flush=True)

    def close(self) -> None:
        """See `Progress`."""


def child(folder: Path, source: str, output: str, rows: int) -> common.Figures:
    """Both layouts, one after the other, in this process, which is the driver, on one Ray."""
    from gemma_batch.cluster import membership

    found: common.Figures = {}
    with membership.joined(None, verbose=False):
        for layout in LAYOUTS:
            name = short(layout)
            made = one(folder, f"{source}/{name}", f"{output}/{name}", layout, rows)
            found |= {f"{layout}: {figure}": value for figure, value in made.items()}
    return found


def one(folder: Path, source: str, output: str, layout: str, rows: int) -> common.Figures:
    """One run."""
    import gemma_batch
    from gemma_batch.storage.fs import open_store

    spec = gemma_batch.JobSpec.from_dict(
        {
            "name": "small-files",
            "input": {"path": f"{source}/", "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": 4},
            "output": {"path": output},
            "resources": {"engine": "echo", "max_model_len": 256, "replicas": 1},
            "policy": {"progress_seconds": 30},
        }
    )
    gone = f"{int(rows * GONE):06d}.parquet" if layout == LAYOUTS[0] else None
    watch = Watch(open_store(source), gone)
    peak = inputs.PeakMemory()
    peak.start()
    begun = time.monotonic()
    report = gemma_batch.run(spec, progress=watch)
    seconds = time.monotonic() - begun
    peak.stop()
    if gone is not None and watch.deleted is not None:
        open_store(source).put(gone, watch.deleted)
    receipts = common.receipts_of(output)
    work = max(r["finished"] for r in receipts) - common.ready_at(receipts)
    phases = list(watch.phases.values())
    cut = phases.index(watch.phases[CUTTING])
    return {
        "parts": len(receipts),
        "failed": report.failed,
        "plan": phases[cut + 1] - begun,
        "work": work,
        "work_speed": rows / work,
        "seconds": seconds,
        "speed": rows / seconds,
        "peak": peak.mb,
    }


def bare_speed(port: int, key: str) -> float:
    """GET requests/s that the server answers to plain HTTP clients."""

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(PROBES // PROBERS):
            connection.request("GET", f"/{BUCKET}/{key}")
            connection.getresponse().read()

    threads = [threading.Thread(target=ask) for _ in range(PROBERS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return PROBES / (time.monotonic() - begun)


def on_s3(folder: Path, options: Any) -> common.Figures | None:
    """The measurement against a server of its own."""
    with s3_server() as server:
        for layout in LAYOUTS:
            for file, data in files_of(layout, options.files):
                server.put([f"in/{short(layout)}/{file}"], data)
        server.filled()
        bare = bare_speed(server.port, f"in/{short(LAYOUTS[0])}/000000.parquet")
        found = measured("s3", folder, f"s3://{BUCKET}/in", f"s3://{BUCKET}/out", options)
        return found and {**found, "bare": bare}


def on_disk(folder: Path, options: Any) -> common.Figures | None:
    """The measurement on the local disk."""
    place = options.keep or folder / "in"
    for layout in LAYOUTS:
        if not (place / short(layout)).exists():
            (place / short(layout)).mkdir(parents=True)
            for file, data in files_of(layout, options.files):
                (place / short(layout) / file).write_bytes(data)
    return measured("local", folder, str(place), str(folder / "out"), options)


def measured(
    place: str, folder: Path, source: str, output: str, options: Any
) -> common.Figures | None:
    """The child's figures."""
    arguments = ["--files", str(options.files), "--source", source, "--output", output]
    return common.measure(
        "benchmarks.small_files", place, folder, *arguments, timeout=options.timeout
    )


def short(layout: str) -> str:
    """A folder's name for the layout."""
    return layout.partition(" ")[0]


def table(found: dict[str, list[common.Figures]]) -> str:
    """One line per place and layout, medians, and what came of the aims."""
    rows, lines = [], []
    for place, runs in found.items():
        for layout in LAYOUTS:
            mine = [
                {k.removeprefix(f"{layout}: "): value for k, value in run.items()} for run in runs
            ]
            rows.append(
                [
                    f"{layout}, {place}",
                    f"{common.median(mine, 'parts'):,.0f}",
                    f"{common.median(mine, 'failed'):.0f}",
                    common.spread(mine, "plan"),
                    common.spread(mine, "work"),
                    common.spread(mine, "work_speed", 0),
                    common.spread(mine, "seconds"),
                    common.spread(mine, "speed", 0),
                    common.spread(mine, "peak", 0),
                    common.spread(mine, "bare", 0),
                ]
            )
        ratios = [
            common.median(runs, f"{LAYOUTS[1]}: {figure}")
            / common.median(runs, f"{LAYOUTS[0]}: {figure}")
            for figure in ("work_speed", "speed")
        ]
        lines.append(
            f"{place}: {LAYOUTS[1]} are {common.ratio_text(ratios[0])} times as fast in rows/s of "
            f"work as one-row files (aim: at most 3), {common.ratio_text(ratios[1])} times in all."
        )
    head = [
        "input", "parts", "failed", "plan s", "work s", "rows/s of work", "seconds", "rows/s",
        "driver's peak MB", "bare GET/s",
    ]  # fmt: skip
    return common.markdown(head, rows) + "\n\n" + "\n".join(lines)


def main() -> None:
    """Parse, prepare, run in turn, print."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--files", type=int, default=100_000, help="one-row files, and rows")
    parser.add_argument("--places", nargs="+", choices=["local", "s3"], default=["local", "s3"])
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one place")
    parser.add_argument("--keep", type=Path, help="make the local input here, or use it again")
    parser.add_argument("--source", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        figures = child(options.folder, options.source, options.output, options.files)
        common.report_figures(options.folder, figures)
        return

    def run(place: str) -> common.Figures | None:
        with tempfile.TemporaryDirectory(prefix="small-files-") as name:
            inputs.tiny_model(Path(name))
            return {"local": on_disk, "s3": on_s3}[place](Path(name), options)

    found = common.in_turn(options.places, options.rounds, run, minutes=options.minutes)
    title = f"{options.files:,} rows in one-row files and in {FEW} files, echo engine"
    common.publish(options, title, table(found), found)


if __name__ == "__main__":
    main()
