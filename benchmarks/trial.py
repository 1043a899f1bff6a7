"""Trial: whether `try` predicts the speed of the run, and how long it takes on a large input.

    python -m benchmarks.trial --samples 200 1000
    python -m benchmarks.trial --waves 4
    python -m benchmarks.trial --large 1000000

The first asks the job jobs/language.yaml (a small trained model, vLLM on the CPU) over its messages
again and again, up to `--rows`: tries of so many rows, and then the whole job in an output of its
own, in fresh processes. The run has to be long: its speed counts from when the engine is ready, and
the first steps of an engine are slow.

predicted   rows/s once running, as the try says
measured    rows/s once running, of the run's report
ratio       predicted / measured (aim: 0.8 to 1.25)
running     sequences that the try's engine had on average, of those that it can have

With `--waves`, rows go to one engine without Ray, in so many rounds: as many as each try has, and
then 3,000 in place of the run. On a busy machine this compares like with like.

predicted   rows/s by the times of the rows of a small wave
measured    rows/s of the large wave in the same round

With `--large`, a try of 200 rows with the echo engine on inputs of so many rows, in ten files of
Parquet and of JSON lines; nothing but the time counts.

seconds     of the whole command, and of the draw alone
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks import common, inputs

ROOT = Path(__file__).resolve().parent.parent
RUN = "run"
FILES, SAMPLE, ROWS = 10, 200, 12_000
WAVE, WARM = 3000, 16  # rows of a large wave, and rows that go before each wave


def spec_for(folder: Path, name: str) -> dict[str, object]:
    """The job of the first table, with an output of its own."""
    import yaml

    data = yaml.safe_load((ROOT / "jobs/language.yaml").read_text(encoding="utf-8"))
    return {
        **data,
        "input": {**data["input"], "path": f"{folder}/in/*.parquet"},
        "model": str(ROOT / "jobs/models/language-small"),
        "output": {**data["output"], "path": f"{folder}/out-{name}"},
    }


def write_messages(folder: Path, rows: int) -> None:
    """Ten files of messages with their own ids."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.quickstart import messages

    known = messages()
    folder.mkdir()
    for file in range(FILES):
        numbers = range(file * rows // FILES, (file + 1) * rows // FILES)
        found = [
            # A number in front, so that equal messages do not share a prefix.
            {**(one := known[n % len(known)]), "id": f"m{n}", "text": f"{n} {one['text']}"}
            for n in numbers
        ]
        pq.write_table(pa.Table.from_pylist(found), folder / f"{file}.parquet")


def child(folder: Path, name: str) -> common.Figures:
    """A try of `name` rows, or the run."""
    import gemma_batch

    spec = gemma_batch.JobSpec.from_dict(spec_for(folder, name))
    begun = time.monotonic()
    if name == RUN:
        report = gemma_batch.run(spec)
        return {"speed": report.steady_rows_per_second, "seconds": time.monotonic() - begun}
    (trial,) = gemma_batch.try_(spec, int(name)).trials
    (speed,) = trial.speeds
    return {
        "speed": speed.rows_per_second,
        "running": speed.running,
        "slots": speed.slots,
        "gain": speed.gain,
        "worked": speed.seconds,
        "bill": trial.bill.seconds if trial.bill else None,
        "seconds": time.monotonic() - begun,
    }


def waves_child(folder: Path, samples: list[int]) -> common.Figures:
    """One round of waves after another in one engine, until there are as many as `--waves`."""
    import random

    import gemma_batch
    from gemma_batch.answering.host import Host
    from gemma_batch.answering.shapes import shape_of
    from gemma_batch.answering.stats import row_times
    from gemma_batch.family.hardware import Hardware
    from gemma_batch.reading.prepare import Preparer
    from gemma_batch.reporting.pace import pace
    from gemma_batch.rows import Request

    *sizes, rounds = samples
    plan = gemma_batch.plan(gemma_batch.JobSpec.from_dict(spec_for(folder, "waves")))
    plan = plan.placed(Hardware(gpu=None, cpus=os.cpu_count() or 1))
    job = plan.job(plan.routes[0])
    preparer = Preparer(job)
    units = [preparer.prepare(plan.survey.shards, unit) for unit in plan.units()]
    every = [request for unit in units for request in unit.requests]
    every = [Request(n, one.prompt, one.sampling, one.form) for n, one in enumerate(every)]
    check = shape_of(job.sampling, job.asked).check
    host = Host(job.engine, in_flight=job.in_flight, policy=job.policy, check=check)
    chance, found = random.Random(0), dict[str, list[float]]()
    try:
        for _ in range(rounds):
            for size in (*sizes, WAVE):
                rows = chance.sample(every, size)
                host.run(rows[:WARM])
                times = [(begin, end) for _, begin, end in row_times(host.run(rows[WARM:]))]
                one = pace(times, job.engine.max_num_seqs)
                assert one is not None
                wall = max(end for _, end in times) - min(begin for begin, _ in times)
                speed = len(times) / wall if size == WAVE else one.rows_per_second
                found.setdefault(str(size), []).append(round(speed, 1))
    finally:
        host.close()
    return {"speeds": found}


def large_child(folder: Path, kind: str) -> common.Figures:
    """A try of a large input, and the draw alone."""
    import gemma_batch
    from gemma_batch.planning.draw import draw
    from gemma_batch.planning.unreadable import Unreadable

    spec = gemma_batch.JobSpec.from_dict(
        {
            "input": {"path": f"{folder}/in/*.{kind}", "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": str(folder / "model"),
            "sampling": {"max_tokens": 4},
            "output": {"path": f"{folder}/out-{kind}"},
            "resources": {"engine": "echo", "max_model_len": 256, "replicas": 1},
        }
    )
    begun = time.monotonic()
    (trial,) = gemma_batch.try_(spec, SAMPLE).trials
    seconds = time.monotonic() - begun
    shards = gemma_batch.plan(spec).survey.shards
    begun = time.monotonic()
    draw(shards, SAMPLE, 0, Unreadable(len(shards)))
    return {
        "seconds": seconds,
        "draw": time.monotonic() - begun,
        "rows": trial.population.rows,
        "mb": sum(shard.size for shard in shards) / 1e6,
    }


def write_large(folder: Path, kind: str, rows: int) -> None:
    """Ten files of short documents."""
    docs = inputs.texts()
    if kind == "parquet":
        inputs.write_rows(folder / "in", rows, docs, shard_rows=rows // FILES, group_rows=10**6)
        return
    (folder / "in").mkdir(parents=True)
    for file in range(FILES):
        with (folder / "in" / f"{file}.jsonl").open("w") as out:
            for n in range(file * rows // FILES, (file + 1) * rows // FILES):
                out.write(json.dumps({"id": n, "doc": docs[n % len(docs)]}) + "\n")


def table(found: dict[str, list[common.Figures]]) -> str:
    """One line per try, beside the run of the same round."""
    rows = [
        [
            name,
            common.spread(found[name], "speed"),
            common.spread(found[RUN], "speed"),
            common.ratio_text(common.ratio(found, name, RUN, "speed")),
            f"{common.spread(found[name], 'running')} of {found[name][0]['slots']}",
            common.spread(found[name], "worked"),
            common.spread(found[name], "seconds"),
        ]
        for name in found
        if name != RUN and found[name]
    ]
    head = ["rows tried", "predicted", "measured", "ratio", "running", "s of work", "s in all"]
    return common.markdown(head, rows)


def waves_table(found: common.Figures) -> str:
    """One line per size, with the ratios of all rounds."""
    import statistics

    speeds: dict[str, list[float]] = found["speeds"]
    whole = speeds.pop(str(WAVE))
    rows = []
    for size, mine in speeds.items():
        ratios = [one / other for one, other in zip(mine, whole, strict=True)]
        shown = ", ".join(f"{one:.2f}" for one in ratios)
        middle = statistics.median(mine), statistics.median(whole)
        rows.append(
            [size, *(f"{one:,.1f}" for one in middle), f"{middle[0] / middle[1]:.2f}", shown]
        )
    head = ["rows", "predicted", "measured", "ratio of the medians", "ratio of each round"]
    return common.markdown(head, rows)


def large_table(found: dict[str, list[common.Figures]]) -> str:
    """One line per format."""
    rows = [
        [
            kind,
            f"{common.median(runs, 'rows'):,.0f}",
            common.spread(runs, "mb"),
            common.spread(runs, "seconds"),
            common.spread(runs, "draw", 2),
        ]
        for kind, runs in found.items()
    ]
    return common.markdown(["format", "rows", "MB", "seconds", "of the draw"], rows)


def main() -> None:
    """Parse, run in turn, print."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--samples", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the job")
    parser.add_argument("--waves", type=int, help="rounds in one engine, in place of the above")
    parser.add_argument("--large", type=int, help="rows of a large input, in place of the above")
    options = parser.parse_args()
    if options.child and options.waves:
        samples = [*options.samples, options.waves]
        common.report_figures(options.folder, waves_child(options.folder, samples))
        return
    if options.child:
        measured = large_child if options.large else child
        common.report_figures(options.folder, measured(options.folder, options.child))
        return
    module = "benchmarks.trial"
    if options.waves:
        with tempfile.TemporaryDirectory(prefix="trial-") as name:
            write_messages(Path(name) / "in", options.rows)
            words = ["--waves", str(options.waves), "--samples", *map(str, options.samples)]
            figures = common.measure(module, "waves", Path(name), *words)
        if figures is not None:
            text = waves_table(figures)
            common.publish(options, "tries and a long wave, in one engine", text, figures)
        return
    if options.large:

        def run_large(kind: str) -> common.Figures | None:
            with tempfile.TemporaryDirectory(prefix="trial-") as name:
                inputs.tiny_model(Path(name))
                write_large(Path(name), kind, options.large)
                return common.measure(module, kind, Path(name), "--large", str(options.large))

        found = common.in_turn(["parquet", "jsonl"], options.rounds, run_large)
        common.publish(options, "a try of a large input", large_table(found), found)
        return

    def run(name: str) -> common.Figures | None:
        with tempfile.TemporaryDirectory(prefix="trial-") as folder:
            write_messages(Path(folder) / "in", options.rows)
            return common.measure(module, name, Path(folder))

    names = [*map(str, options.samples), RUN]
    found = common.in_turn(names, options.rounds, run, minutes=options.minutes)
    common.publish(options, "tries and the run", table(found), found)


if __name__ == "__main__":
    main()
