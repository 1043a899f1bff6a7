"""Alerts on a real run: told, kept, and the end of it where that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .helpers import assert_each_once, cli, write_spec

ROWS = 300


def test_an_alert_stops_the_run_where_it_is_asked_to_and_loses_nothing(
    cluster: str, tiny: str, tmp_path: Path
) -> None:
    """Exit code 4 and why; `status` and `report` know of it; the next start does the rest."""
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
            "engine": "echo", "max_model_len": 256, "replicas": 1, "max_num_seqs": 16,
            "engine_args": {"rows_per_second": 20},
        },
        policy={
            "unit_rows": 10,
            "alerts": {
                "min_tokens_per_second": 10_000,
                "for_seconds": 2,
                "stop": ["min_tokens_per_second"],
            },
        },
    )  # fmt: skip
    run = cli("run", str(spec), "--address", cluster)
    assert run.returncode == 4, run.stderr
    assert "alert: " in run.stderr
    assert "less than policy.alerts.min_tokens_per_second=10000" in run.stderr
    assert "policy.alerts.stop names it" in run.stderr

    status: dict[str, Any] = json.loads(cli("status", output, "--json").stdout)
    assert status["state"] == "stopped"
    assert 0 < status["committed"] < ROWS
    assert 0 < status["rows_per_second"] < 60
    assert status["seconds_left"] is None
    (event,) = status["alerts"]
    assert event["name"] == "min_tokens_per_second"
    assert 0 < event["value"] < 10_000 == event["threshold"]
    assert "output tokens/s of all engines together" in cli("status", output).stderr
    page = (tmp_path / "out" / "_run" / "report.html").read_text()
    assert "not complete" in page
    assert "less than policy.alerts.min_tokens_per_second=10000" in page
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").iterdir()}

    # Alerts are no part of what the job is: the same output goes on without that one.
    calm = ("--set", "policy.alerts.stop=[]", "--set", "policy.alerts.min_tokens_per_second=null")
    calm += ("--set", "resources.engine_args.rows_per_second=1000")
    again = cli("run", str(spec), "--address", cluster, *calm, "--json")
    assert again.returncode == 0, again.stderr
    assert "resuming: " in again.stderr
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert_each_once(output, (str(n) for n in range(ROWS)))
    assert json.loads(again.stdout)["alerts"] == [event], "what was told before stays in the report"
