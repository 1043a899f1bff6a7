"""Runs scenarios on one shared cluster and gathers what each of them cost."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_batch.family.tiny import build_tiny_gemma

from . import attacks
from .cluster import Cluster
from .harness import ROWS, Bench, Lost, Unavailable
from .proxy import FaultProxy
from .scenarios import FAULTS, Fault
from .tokens import Tokens

__all__ = ["Result", "attacks", "bench", "run_all", "run_one", "table"]


KILL_ROWS = 5000
KILL_WITHIN = 18.0  # seconds; a run starts to commit after 7 to 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one scenario came to.

    `redone` rows were answered, and paid for, more than once; `lost` is the longest time in seconds
    without a commit, or by how much the first commit came later than in a clean run. `seconds` is
    how long the scenario took. `why` says why a scenario was skipped.
    """

    fault: Fault
    outcome: str
    seconds: float
    redone: int | None = None
    lost: float | None = None
    problem: str = ""
    why: str = ""


def make_documents(rows: int) -> list[dict[str, Any]]:
    """Short real documents, so that no prompt has to be truncated."""
    from jobs.stdlib_docs import documents

    found: list[dict[str, Any]] = []
    for document in documents():
        if document["chars"] <= 400:
            found.append(document)
        if len(found) == rows:
            return found
    raise ValueError(f"only {len(found)} short documents")


def clean_environment() -> None:
    """Nothing of the caller's cloud account takes part."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]


@contextlib.contextmanager
def bench(folder: Path, *, seed: int) -> Iterator[Bench]:
    """A cluster of three nodes, an S3 server, a tiny model and documents."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    clean_environment()
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # Credentials of a process, not of the environment: only such can be renewed in a drill.
    tokens = Tokens(folder)
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://{host}:{port}",
        AWS_CONFIG_FILE=str(tokens.config),
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
    )
    boto3.client("s3").create_bucket(Bucket="faults")
    docs = make_documents(4 * ROWS)
    model = build_tiny_gemma(folder / "model", texts=[doc["doc"] for doc in docs[:ROWS]])
    proxy = FaultProxy(f"http://{host}:{port}", seed=seed)
    proxy.start()
    cluster = Cluster(folder, nodes=2, env={"AWS_ENDPOINT_URL": proxy.endpoint})
    try:
        made = Bench(
            cluster=cluster,
            folder=folder,
            model=str(model),
            docs=docs,
            s3_url="s3://faults",
            proxy=proxy,
            tokens=tokens,
            chance=random.Random(seed),
        )
        with made.later:
            yield made
    finally:
        cluster.close()
        proxy.stop()
        server.stop()


def run_one(bench: Bench, fault: Fault, clean: float | None = None) -> Result:
    """One scenario, judged; `clean` is after how many seconds a clean run commits first."""
    started, begun = time.monotonic(), time.time()
    try:
        job = fault.run(bench)
        if not job.refused:
            job.check()
    except Unavailable as err:
        seconds = time.monotonic() - started
        return Result(fault=fault, outcome="skipped", seconds=seconds, why=str(err))
    except Exception as err:
        outcome = "LOST" if isinstance(err, Lost) else "BROKEN"
        problem = str(err) if isinstance(err, Lost) else traceback.format_exc()
        seconds = time.monotonic() - started
        return Result(fault=fault, outcome=outcome, seconds=seconds, problem=problem)
    finally:
        bench.clear()
    seconds = time.monotonic() - started
    if job.refused:
        return Result(fault=fault, outcome="refused", seconds=seconds)
    return Result(
        fault=fault,
        outcome="survived",
        seconds=seconds,
        redone=job.redone(),
        lost=_lost(job.commits, begun, clean),
    )


def _lost(commits: Sequence[float], begun: float, clean: float | None) -> float:
    gaps = [after - before for before, after in itertools.pairwise(commits)]
    late = commits[0] - begun - clean if clean is not None else 0.0
    return max(0.0, late, *gaps)


def clean_start(bench: Bench) -> float:
    """Seconds until a run that nothing happens to commits first."""
    begun = time.time()
    job = bench.job("clean")
    job.start().expect(0)
    job.check()
    return job.commits[0] - begun


def run_all(
    bench: Bench,
    faults: Sequence[Fault],
    say: Callable[[str], None],
    until: float | None = None,
) -> list[Result]:
    """All of them in turn, each printed as it ends.

    From `until` on, on the monotonic clock, none begins any more, and those left out are named;
    the first always runs.
    """
    clean, results = clean_start(bench), []
    say(f"a clean run commits first after {clean:.1f} s")
    for done, fault in enumerate(faults):
        if done and until is not None and time.monotonic() >= until:
            left = ", ".join(fault.name for fault in faults[done:])
            say(f"no time left for {len(faults) - done}: {left}")
            break
        result = run_one(bench, fault, clean if fault.base == "echo" else None)
        results.append(result)
        redone = "-" if result.redone is None else result.redone
        lost = "-" if result.lost is None else f"{result.lost:.0f}"
        say(
            f"{result.outcome:9} {result.seconds:6.1f} s  redone {redone:>5}  lost {lost:>3} s  "
            f"{fault.name}"
        )
        if result.problem or result.why:
            say(result.problem or f"skipped: {result.why}")
    return results


def random_kills(bench: Bench, kills: int, say: Callable[[str], None]) -> dict[str, int]:
    """SIGKILL drivers at random moments, planning and reporting included, until there were `kills`.

    Raises `Lost` at the first output that is not what it has to be.
    """
    done = jobs = redone = rows = 0
    while done < kills:
        job = bench.job("kills", rows=KILL_ROWS, args={"rows_per_second": KILL_ROWS / 25})
        while True:
            driver = job.start()
            try:
                code = driver.process.wait(bench.chance.uniform(0.2, KILL_WITHIN))
            except subprocess.TimeoutExpired:
                driver.kill()
                done += 1
                continue
            if code != 0:
                raise Lost(f"exit code {code}: {job.tail()}")
            break
        job.check()
        jobs, rows, redone = jobs + 1, rows + len(job.docs), redone + (job.redone() or 0)
        say(f"{done} kills, {jobs} outputs, {rows:,} rows, {redone:,} redone, none lost or double")
        shutil.rmtree(job.folder)
    return {"kills": done, "outputs": jobs, "rows": rows, "redone": redone}


def table(results: Sequence[Result]) -> str:
    """As Markdown."""
    lines = ["| fault | how | outcome | rows redone | seconds lost |", "|---|---|---|---|---|"]
    for result in results:
        redone = "-" if result.redone is None else f"{result.redone:,}"
        lost = "-" if result.lost is None else f"{result.lost:.0f}"
        fault = result.fault
        lines.append(f"| {fault.what} | {fault.how} | {result.outcome} | {redone} | {lost} |")
    return "\n".join(lines)


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of these names, in the table's order; all when none is named."""
    unknown = set(names) - FAULTS.keys()
    if unknown:
        raise SystemExit(f"no such fault: {sorted(unknown)}; there are {', '.join(FAULTS)}")
    return [fault for name, fault in FAULTS.items() if not names or name in names]
