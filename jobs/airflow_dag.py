"""A complete DAG: wait for the day's documents, run, check the share of failed rows, publish.

Size: a day of support tickets. Cost: set `resources` to what the cluster has; `gemma-batch plan`
tells the cost of a spec. Copy this file into the DAG folder, replace paths and columns, and make
the connection `gemma_batch_ray` (docs/airflow.md). The params can be changed for one run.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from gemma_batch.ops.airflow import GemmaBatchOperator

ANSWERS = Asset("s3://my-bucket/tickets-answered")  # what other DAGs can be scheduled by
INPUT = "{{ params.bucket }}/tickets/{{ ds }}"
# One output for all days (param `grow`), or one for each day.
FILES = "{{ params.bucket }}/tickets/{{ '*' if params.grow else ds }}/*.parquet"
OUTPUT = "{{ params.bucket }}/tickets-answered{{ '' if params.grow else '/' ~ ds }}"
SPEC = {
    "name": "support-tickets",
    "input": {"path": FILES, "id": "ticket_id", "grow": "{{ params.grow }}"},
    # The prompt alone is not rendered by Airflow: its braces are for the columns of each row.
    "prompt": {
        "system": "You classify support tickets.",
        "user": "Subject: {{ subject }}\n\n{{ body }}",
    },
    "model": "{{ params.model }}",
    "sampling": {"temperature": 0, "max_tokens": 128},
    "output": {"path": OUTPUT, "keep": ["ticket_id"]},
    "resources": {"engine": "{{ params.engine }}"},
    "policy": {"max_failed": "100%"},  # it is `check` that decides
}


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={
        "bucket": Param("s3://my-bucket", type="string"),
        "model": Param("google/gemma-3-4b-it", type="string"),
        "engine": Param("vllm", enum=["vllm", "echo"], description="echo: all but the model"),
        "grow": Param(False, type="boolean", description="one output, to which each day adds"),
        "max_failed_share": Param(0.01, type="number", minimum=0, maximum=1),
    },
)
def support_tickets() -> None:
    """One run per day; a day that is run again attaches to its job or resumes its output."""

    @task.sensor(mode="reschedule", poke_interval=300, timeout=12 * 3600)
    def wait_for_input(folder: str) -> bool:
        """Until whoever writes the day's files has said that they are all there."""
        from gemma_batch.storage.fs import open_store

        return open_store(folder).exists("_SUCCESS")

    run = GemmaBatchOperator(task_id="run", spec=SPEC)

    @task(retries=0)
    def check(facts: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Nobody downstream sees a day with too many failed rows."""
        day = facts["newest"]
        if day["failed_share"] > params["max_failed_share"]:
            raise AirflowFailException(
                f"{day['failed']} of {day['rows']} rows failed ({facts['failures']}): look at "
                f"{facts['output']}/errors, then `gemma-batch retry` and clear this task"
            )
        return facts

    @task(outlets=[ANSWERS])
    def publish(facts: dict[str, Any], outlet_events: Any) -> None:
        """The asset's event tells where the answers are and how many."""
        outlet_events[ANSWERS].extra = facts

    wait_for_input(INPUT) >> run
    publish(check(run.output))


support_tickets()
