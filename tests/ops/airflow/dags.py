"""DAGs of the tests, put into the DAG folder of a real Airflow."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, AssetAlias, dag, task

from gemma_batch.ops.airflow import GemmaBatchOperator

START = {"start_date": datetime(2026, 1, 1), "schedule": None, "catchup": False}
AGAIN = {"retries": 3, "retry_delay": timedelta(seconds=1), "poll_seconds": 1.0}


@dag("one", params={"spec": "", "deferrable": True}, **START)
def one() -> None:
    """The operator alone, its spec a file; a task for each mode, of which a run takes one."""

    @task.branch
    def mode(params: dict[str, Any]) -> str:
        return "deferred" if params["deferrable"] else "here"

    spec = "{{ params.spec }}"
    outlets = [Asset("answers-of-one")]
    mode() >> [
        GemmaBatchOperator(task_id="deferred", spec=spec, outlets=outlets, **AGAIN),
        GemmaBatchOperator(task_id="here", spec=spec, outlets=outlets, deferrable=False, **AGAIN),
    ]


@dag("several", params={"specs": [], "wrong": {}, "failing": {}}, **START)
def several() -> None:
    """A task per spec, and two that no retry can mend."""

    @task
    def specs(params: dict[str, Any]) -> list[dict[str, Any]]:
        return params["specs"]

    @task
    def spec_of(name: str, params: dict[str, Any]) -> dict[str, Any]:
        return params[name]

    each = GemmaBatchOperator.partial(task_id="each", outlets=[AssetAlias("each-answers")], **AGAIN)
    each.expand(spec=specs())
    GemmaBatchOperator(task_id="wrong", spec=spec_of.override(task_id="a")("wrong"), **AGAIN)
    GemmaBatchOperator(task_id="failing", spec=spec_of.override(task_id="b")("failing"), **AGAIN)


one()
several()
