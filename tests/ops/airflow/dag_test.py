"""`dag.test()` in a process of Airflow's own environment; what came of it goes to stdout as JSON.

    python dag_test.py DAG_ID CONF DEFERRABLE

`DEFERRABLE` is true, false or null (as the DAG says). The log goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any


def outcome(run: Any) -> dict[str, Any]:
    """States, results, links and asset events of a DAG run, from Airflow's database."""
    from airflow.models.asset import AssetEvent
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    tasks: dict[str, dict[str, Any]] = {}
    with create_session() as session:
        for ti in run.get_task_instances(session=session):
            name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}.{ti.map_index}"
            tasks[name] = {"state": str(ti.state), "tries": ti.try_number, "xcom": {}}
        for found in session.scalars(select(XComModel).where(XComModel.run_id == run.run_id)):
            name = found.task_id if found.map_index < 0 else f"{found.task_id}.{found.map_index}"
            tasks[name]["xcom"][found.key] = XComModel.deserialize_value(found)
        events = [
            {"uri": event.asset.uri, "extra": event.extra}
            for event in session.scalars(
                select(AssetEvent).where(AssetEvent.source_run_id == run.run_id)
            )
        ]
    return {"state": str(run.state), "tasks": tasks, "events": events}


def main(dag_id: str, conf: str, deferrable: str) -> None:
    """See the module's docstring."""
    with contextlib.redirect_stdout(sys.stderr):
        from airflow.configuration import conf as settings
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(settings.get("core", "dags_folder"))
        assert not bag.import_errors, bag.import_errors
        dag = bag.dags[dag_id]
        if (wanted := json.loads(deferrable)) is not None:
            dag.get_task("run").deferrable = wanted
        found = outcome(dag.test(run_conf=json.loads(conf)))
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
