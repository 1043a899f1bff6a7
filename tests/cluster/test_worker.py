"""The worker: a unit that must be alone is, and is not kept out for ever; the times of rows."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from gemma_batch.cluster.worker import WARM_ROWS, Gate, Worker
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import make_plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.spec import JobSpec
from gemma_batch.units.payload import encode


def test_a_unit_that_wants_to_be_alone_is_alone() -> None:
    """Many pass side by side; whoever is alone sees nobody, and nobody comes in meanwhile."""
    gate, lock = Gate(), threading.Lock()
    inside: list[bool] = []
    seen: list[list[bool]] = []

    def unit(*, alone: bool) -> None:
        with gate.pass_through(alone=alone):
            with lock:
                inside.append(alone)
                seen.append(list(inside))
            time.sleep(0.005)
            with lock:
                inside.remove(alone)

    threads = [threading.Thread(target=unit, kwargs={"alone": n % 7 == 0}) for n in range(70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a unit waits for ever"
    assert len(seen) == 70
    assert all(who == [True] for who in seen if True in who)
    assert max(map(len, seen)) > 5, "ordinary units did not run side by side"


def test_who_wants_to_be_alone_is_not_starved() -> None:
    """A steady stream of ordinary units must not keep a careful one outside."""
    gate, stop = Gate(), threading.Event()

    def stream() -> None:
        while not stop.is_set():
            with gate.pass_through(alone=False):
                time.sleep(0.002)

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    started = time.monotonic()
    with gate.pass_through(alone=True):
        waited = time.monotonic() - started
    stop.set()
    for thread in threads:
        thread.join()
    assert waited < 1


def test_receipts_of_a_timed_job_tell_the_times_of_rows(tmp_path: Path, model: str) -> None:
    """The first rows of an engine go alone; all rows of all units are answered once."""
    text = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(90))
    (tmp_path / "in.jsonl").write_text(text)
    spec = JobSpec.from_dict(
        {
            "input": {"path": f"{tmp_path}/in.jsonl"},
            "prompt": {"user": "{{ text }}"},
            "model": model,
            "sampling": {"max_tokens": 4},
            "output": {"path": str(tmp_path / "out")},
            "resources": {"engine": "echo", "max_model_len": 256, "engine_args": {"delay": 0.2}},
            "policy": {"unit_rows": 30},
        }
    )
    plan = make_plan(spec).placed(Hardware(gpu=None))
    job = replace(plan.job(plan.routes[0]), timed=True, run="r")
    preparer = Preparer(job)
    units = [encode(preparer.prepare(plan.survey.shards, unit)) for unit in plan.units()]
    worker = Worker(job)
    try:
        with ThreadPoolExecutor(len(units)) as pool:
            tables = list(pool.map(worker, units))
    finally:
        worker.close()
    receipts = [json.loads(table["receipt"][0].as_py()) for table in tables]
    assert [one["answered"] for one in receipts] == [30, 30, 30]
    (warm,) = {one["timed_from"] for one in receipts}
    times = [time for one in receipts for time in one["times"]]
    assert sorted(number for number, _, _ in times) == list(range(90))
    before = [(begin, end) for _, begin, end in times if begin < warm]
    assert len(before) == WARM_ROWS
    assert all(end <= warm for _, end in before)
    assert all(0.2 <= end - begin < 30 for _, begin, end in times)
    assert receipts[0]["slots"] == job.engine.max_num_seqs
