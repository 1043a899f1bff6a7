"""A run after a trial, by the command line: what the trial paid for is not asked again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import make_plan
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from tests.driver.trials import trial

from .helpers import assert_each_once, cli, start_cli, write_spec

FILES, ROWS = 3, 400
SAMPLE = {"0.jsonl": range(100), "1.jsonl": range(0, ROWS, 20), "2.jsonl": {ROWS - 1}}
KNOWN = sum(map(len, SAMPLE.values()))
EVERY = FILES * ROWS


def test_a_run_asks_the_rows_that_no_trial_has_answered(
    tiny: str, cluster: str, tmp_path: Path
) -> None:
    """SIGKILL in the middle, and again: each row once (promise 1), none paid for twice (2).

    The first unit has known answers only.
    """
    output, tally = tmp_path / "out", tmp_path / "tally"
    (tmp_path / "in").mkdir()
    for file in range(FILES):
        rows = [{"key": f"{file}.{i}", "text": f"row {i} of {file}"} for i in range(ROWS)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "in" / f"{file}.jsonl").write_text(text)
    data = {
        "input": {"path": f"{tmp_path}/in/*.jsonl", "id": "key"},
        "prompt": {"user": "{{ text }}"},
        "model": tiny,
        "sampling": {"max_tokens": 8},
        "output": {"path": str(output), "keep": ["text"]},
        "resources": {
            "engine": "echo",
            "max_model_len": 512,
            "replicas": 1,
            "engine_args": {"rows_per_second": 500, "tally": str(tally)},
        },
        "policy": {"unit_rows": 100},
    }
    spec, store = write_spec(tmp_path / "job.yaml", **data), open_store(str(output))
    trial(make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None)), "t", SAMPLE)

    log = tmp_path / "driver.log"
    with log.open("w") as err:
        driver = start_cli("run", str(spec), stderr=err, RAY_ADDRESS=cluster)
    deadline = time.monotonic() + 300
    while len(store.list("results")) < 4:
        assert time.monotonic() < deadline
        assert driver.poll() is None, log.read_text()
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert f"{KNOWN} rows answered by the trial 't' before: not asked again" in log.read_text()
    assert len(store.list("results")) < EVERY / 100, "it was killed too late to mean anything"

    done = cli("run", str(spec), "--json", RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["answered"], report["failed"], report["reused"]) == (EVERY, 0, KNOWN)
    assert f"{KNOWN} of them reused from trials" in done.stderr
    ids = [f"{file}.{i}" for file in range(FILES) for i in range(ROWS)]
    results, errors = assert_each_once(str(output), ids)
    assert errors == []
    expected = {f"{name[0]}.{i}" for name, numbers in SAMPLE.items() for i in numbers}
    assert {row["id"] for row in results if row["output"].startswith("t ")} == expected
    assert report["completion_tokens"] == sum(row["completion_tokens"] for row in results)
    # The engine answered the others, and a second time at most those of the units in flight.
    answers = tally.stat().st_size
    assert EVERY - KNOWN <= answers < EVERY - KNOWN + 400
