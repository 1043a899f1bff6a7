"""A budget on a real run: an ordered stop near it, and the rest once it is raised."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .helpers import assert_each_once, cli, write_spec

ROWS, UNIT, SPEED = 400, 10, 40.0
SECONDS = 5.0  # the budget, of one engine
LATE = 5  # seconds until a busy machine has heard of the end
IN_HAND = 4  # units that the engine of this job holds at most: see planning/flight.py


def test_a_run_stops_at_its_budget_and_goes_on_when_it_is_raised(
    cluster: str, tiny: str, tmp_path: Path
) -> None:
    """Exit code 4 and a whole report; nothing is started for nothing; each row once at the end."""
    table = pa.table({"id": list(range(ROWS)), "doc": [f"document {n}" for n in range(ROWS)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=50)
    output = str(tmp_path / "out")
    spec = write_spec(
        tmp_path / "job.yaml",
        input={"path": str(tmp_path / "in.parquet"), "id": "id"},
        prompt={"user": "{{ doc }}"},
        model=tiny,
        sampling={"max_tokens": 4},
        output={"path": output},
        resources={
            "engine": "echo", "max_model_len": 256, "replicas": 1, "max_num_seqs": 4,
            "engine_args": {"rows_per_second": SPEED},
        },
        policy={"unit_rows": UNIT, "budget": {"gpu_hours": SECONDS / 3600}},
    )  # fmt: skip
    run = cli("run", str(spec), "--address", cluster, "--json")
    assert run.returncode == 4, run.stderr
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "stopped by the budget: 0.00" in said
    assert " of policy.budget.gpu_hours=0.00138889 is spent; " in said
    assert "raise policy.budget (in the spec, or by --set) and run the same command" in said
    found = re.search(r"([\d,]+) of 400 rows are committed and ([\d,]+) are left", said)
    assert found is not None, said

    report: dict[str, Any] = json.loads(run.stdout)
    assert json.loads((tmp_path / "out" / "_run" / "report.json").read_text()) == report
    assert (report["incomplete"], report["complete"]) == (True, False)
    assert f"error: {report['why']}" == said
    assert report["answered"] == int(found[1]) == ROWS - int(found[2])
    assert 0 < report["answered"] < ROWS
    assert report["answered"] == sum(
        pq.read_metadata(part).num_rows for part in (tmp_path / "out" / "results").iterdir()
    )
    over = report["device_hours"] * 3600 - SECONDS
    in_hand = IN_HAND * UNIT / SPEED
    assert -in_hand - 1 <= over <= in_hand + LATE, "more than one engine's units in hand"

    status = json.loads(cli("status", output, "--json").stdout)
    assert (status["state"], status["incomplete"]) == ("stopped", True)
    assert status["budget"] == report["budget"] == {"gpu_hours": SECONDS / 3600}
    assert "of policy.budget.gpu_hours=0.00138889 spent" in cli("report", output).stderr
    assert "stopped by the budget" in (tmp_path / "out" / "_run" / "report.html").read_text()

    # The same command again starts nothing: not even a connection to the cluster, which is wrong.
    again = cli("run", str(spec), "--address", "127.0.0.1:9")
    assert again.returncode == 4, again.stderr
    assert "error: nothing was started: the " in again.stderr

    more = ("--set", "policy.budget.gpu_hours=1")
    more += ("--set", "resources.engine_args.rows_per_second=1000")
    end = cli("run", str(spec), "--address", cluster, *more, "--json")
    assert end.returncode == 0, end.stderr
    assert f"resuming: {report['answered']} rows are committed already" in end.stderr
    assert_each_once(output, (str(n) for n in range(ROWS)))
    last: dict[str, Any] = json.loads(end.stdout)
    assert (last["complete"], last["incomplete"], last["why"]) == (True, False, None)
    assert last["device_hours"] > report["device_hours"], "all runs on the output count together"
