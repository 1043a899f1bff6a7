"""`dag.test()` of real DAGs on a real Ray cluster: modes, results, events, ends without a retry."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.helpers import assert_each_once

if TYPE_CHECKING:
    from tests.ops.conftest import Platform

    from .conftest import Airflow, SpecOf

ROWS = 60


def test_the_example_dag_runs_from_waiting_to_publishing(
    airflow: Airflow, platform: Platform, tiny: str, tmp_path: Path
) -> None:
    """Every row once, the true counts in XCom and event, the log and a link.

    It runs deferred here; test_kills runs both modes.
    """
    table = pa.table(
        {
            "ticket_id": [f"t{n}" for n in range(ROWS)],
            "subject": [f"Order {n}" for n in range(ROWS)],
            "body": [None, *(f"Where is order {n}?" for n in range(1, ROWS))],
        }
    )
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    folder = tmp_path / "tickets" / day
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "a.parquet")
    (folder / "_SUCCESS").touch()
    conf = {"bucket": str(tmp_path), "model": tiny, "engine": "echo", "max_failed_share": 0.05}
    run, log = airflow.dag_test("support_tickets", conf, deferrable=True)
    states = {name: found["state"] for name, found in run["tasks"].items()}
    assert states == dict.fromkeys(("wait_for_input", "run", "check", "publish"), "success"), log
    assert "Pausing task as DEFERRED" in log

    output = f"{tmp_path}/tickets-answered/{day}"
    results, errors = assert_each_once(output, [f"t{n}" for n in range(ROWS)])
    facts = run["tasks"]["run"]["xcom"]["return_value"]
    told = {name: facts[name] for name in ("output", "rows", "answered", "failed", "failures")}
    assert told == {
        "output": output,
        "rows": ROWS,
        "answered": ROWS - 1,
        "failed": 1,
        "failures": {"null_value": 1},
    }
    assert (len(results), len(errors)) == (ROWS - 1, 1)
    assert facts["failed_share"] == pytest.approx(1 / ROWS, abs=1e-6)
    assert facts["prompt_tokens"] == sum(row["prompt_tokens"] for row in results)
    assert facts["completion_tokens"] == sum(row["completion_tokens"] for row in results)
    assert "cost" in facts
    assert run["events"] == [{"uri": "s3://my-bucket/tickets-answered", "extra": facts}]
    assert any("Order 7" in row["output"] or row["output"] for row in results)

    job = facts["submission_id"]
    link = run["tasks"]["run"]["xcom"]["_link_RayJobLink"]
    assert link == f"{platform.address}/#/jobs/{job}"
    assert f"submitted {job}" in log
    assert f"rows     {ROWS - 1} answered of {ROWS}" in log, "the driver's own words"
    listed = json.loads(platform.cli("list", "--json").stdout)
    (mine,) = [one for one in listed if one["output"] == output]
    assert (mine["id"], mine["status"]) == (job, "SUCCEEDED")
    assert mine["metadata"]["airflow.dag_id"] == "support_tickets"


@pytest.mark.long
def test_each_day_adds_to_one_output(
    airflow: Airflow, platform: Platform, tiny: str, tmp_path: Path
) -> None:
    """The example's param `grow`: two days, one output, and the facts of the newest day."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    conf = {"bucket": str(tmp_path), "model": tiny, "engine": "echo", "grow": True}
    for number, name in enumerate(("2026-01-01", day)):
        folder = tmp_path / "tickets" / name
        folder.mkdir(parents=True, exist_ok=True)
        ids = [f"{number}-{n}" for n in range(ROWS)]
        table = {"ticket_id": ids, "subject": ids, "body": ids}
        pq.write_table(pa.table(table), folder / "a.parquet")
        (tmp_path / "tickets" / day).mkdir(exist_ok=True)
        (tmp_path / "tickets" / day / "_SUCCESS").touch()
        run, log = airflow.dag_test("support_tickets", conf, deferrable=False)
        facts = run["tasks"]["run"]["xcom"]["return_value"]
        assert facts["output"] == f"{tmp_path}/tickets-answered", log
        assert (facts["rows"], facts["newest"]["rows"]) == (ROWS * (number + 1), ROWS)
    every = [f"{number}-{n}" for number in range(2) for n in range(ROWS)]
    assert_each_once(f"{tmp_path}/tickets-answered", every)


@pytest.mark.long
def test_mapped_tasks_and_failures_that_no_retry_mends(
    airflow: Airflow, platform: Platform, spec_of: SpecOf
) -> None:
    """A task per spec with its own facts; a wrong spec and too many failed rows end at once."""
    specs = [spec_of(name, rows=30, rate=1000) for name in ("first", "second")]
    wrong = {**spec_of("wrong", rows=1, rate=1000), "samplin": {}}
    failing = spec_of("failing", rows=30, rate=1000, prompt={"user": "{{ doc.missing }}"})
    run, log = airflow.dag_test("several", {"specs": specs, "wrong": wrong, "failing": failing})
    each = [run["tasks"][f"each.{n}"] for n in (0, 1)]
    assert [one["state"] for one in each] == ["success", "success"], log
    results = [one["xcom"]["return_value"] for one in each]
    assert [facts["name"] for facts in results] == ["first", "second"]
    assert [facts["answered"] for facts in results] == [30, 30]
    events = {event["uri"]: event["extra"] for event in run["events"]}
    assert events == {f"file://{facts['output']}": facts for facts in results}

    ended: dict[str, Any] = {name: run["tasks"][name] for name in ("wrong", "failing")}
    assert {name: (t["state"], t["tries"]) for name, t in ended.items()} == {
        "wrong": ("failed", 1),
        "failing": ("failed", 1),
    }, log
    assert "samplin" in log
    assert "30 of 30 rows failed (missing_field 30), more than policy.max_failed allows" in log
    listed = json.loads(platform.cli("list", "--json").stdout)
    outputs = [one["output"] for one in listed]
    assert outputs.count(failing["output"]["path"]) == 1
    assert wrong["output"]["path"] not in outputs, "it never reached the cluster"
