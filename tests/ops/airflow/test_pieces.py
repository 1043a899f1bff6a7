"""The operator's parts: what Airflow stores, what importing costs, names of places, the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Airflow


def test_a_connection_names_the_dashboard_and_the_page_of_a_job(airflow_alone: Airflow) -> None:
    """As host and port, or as a URL; people may reach it at another address than the workers."""
    found = airflow_alone.answer(
        "import json\n"
        "from airflow.sdk import Connection\n"
        "from gemma_batch.errors import UserError\n"
        "from gemma_batch.ops.airflow.connection import address_of, page_of\n"
        "def made(**fields):\n"
        "    return Connection(conn_id='ray', conn_type='http', **fields)\n"
        "places = [made(host='head'), made(host='head', port=80, schema='https'),\n"
        "          made(host='https://ray.example.com/'), made(host='http://head', port=8266)]\n"
        "linked = made(host='head', extra=json.dumps({'link': 'https://ray.example.com/'}))\n"
        "try:\n"
        "    address_of(made())\n"
        "except UserError as err:\n"
        "    refused = str(err)\n"
        "print(json.dumps([[address_of(one) for one in places], page_of(linked, 'job-1'),\n"
        "                  page_of(places[0], 'job-1'), refused]))"
    )
    addresses, linked, plain, refused = found
    assert addresses == [
        "http://head:8265",
        "https://head:80",
        "https://ray.example.com",
        "http://head:8266",
    ]
    assert linked == "https://ray.example.com/#/jobs/job-1"
    assert plain == "http://head:8265/#/jobs/job-1"
    assert "'ray' names no host" in refused


def test_places_have_openlineage_names_and_failures_one_line(airflow_alone: Airflow) -> None:
    """A glob counts as the folder that it is in; codes stand in the task's log."""
    found = airflow_alone.answer(
        "import json\n"
        "from gemma_batch.ops.airflow.facts import failures_of\n"
        "from gemma_batch.ops.airflow.lineage import place_of\n"
        "paths = ['s3://tickets/2026/*.parquet', 's3://tickets', 's3://tickets/2026/a.parquet',\n"
        "         '/data/in/part-[0-9].jsonl', 'file:///data/in']\n"
        "facts = {'failed': 1200, 'rows': 5000, 'failures': {'null_value': 1199, 'deadline': 1}}\n"
        "print(json.dumps([[place_of(path) for path in paths], failures_of(facts)]))"
    )
    assert found == [
        [
            ["s3://tickets", "2026"],
            ["s3://tickets", "/"],
            ["s3://tickets", "2026/a.parquet"],
            ["file", "/data/in"],
            ["file", "/data/in"],
        ],
        "1,200 of 5,000 rows failed (null_value 1,199, deadline 1)",
    ]


def test_parsing_a_dag_needs_neither_ray_nor_vllm(airflow_alone: Airflow) -> None:
    """The DAG processor imports it every few seconds."""
    done = airflow_alone.run_cold(
        "-c",
        "import json, sys\n"
        "import jobs.airflow_dag\n"
        "print(json.dumps([n for n in ('ray', 'vllm', 'torch', 'pyarrow') if n in sys.modules]))",
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_trigger_survives_the_database(airflow_alone: Airflow) -> None:
    """It is made anew from names; no token is stored."""
    found = airflow_alone.answer(
        "import json\n"
        "from airflow.sdk._shared.module_loading import import_string\n"
        "from gemma_batch.ops.airflow import GemmaBatchTrigger\n"
        "one = GemmaBatchTrigger(conn_id='c', submission_id='s', poll_seconds=2.0, deadline=9.0)\n"
        "path, fields = json.loads(json.dumps(one.serialize()))\n"
        "print(json.dumps([fields, import_string(path)(**fields).serialize() == one.serialize()]))"
    )
    assert found == [
        {"conn_id": "c", "submission_id": "s", "poll_seconds": 2.0, "deadline": 9.0},
        True,
    ]


def test_lineage_names_inputs_output_rows_and_job(airflow_alone: Airflow) -> None:
    """With Airflow's own OpenLineage classes."""
    found = airflow_alone.answer(
        "import json\n"
        "from gemma_batch.ops.airflow import GemmaBatchOperator\n"
        "spec = {'name': 'n', 'input': {'path': 's3://in/day/*.parquet', 'id': 'id'},\n"
        "        'prompt': {'user': '{{ doc }}'}, 'model': 'google/gemma-3-1b-it',\n"
        "        'output': {'path': 's3://out/day'}}\n"
        "operator = GemmaBatchOperator(task_id='run', spec=spec)\n"
        "operator._submission_id, operator.job_url = 'job-1', 'http://head:8265/#/jobs/job-1'\n"
        "operator._facts = {'answered': 7, 'failed': 2}\n"
        "told = operator.get_openlineage_facets_on_complete(None)\n"
        "stats = told.outputs[0].outputFacets['outputStatistics']\n"
        "query = told.run_facets['externalQuery']\n"
        "print(json.dumps([\n"
        "    [(one.namespace, one.name) for one in (*told.inputs, *told.outputs)],\n"
        "    stats.rowCount, query.externalQueryId, query.source]))"
    )
    assert found == [
        [["s3://in", "day"], ["s3://out", "day"]],
        9,
        "job-1",
        "http://head:8265/#/jobs/job-1",
    ]


def test_watching_never_blocks_the_loop(airflow_alone: Airflow) -> None:
    """A triggerer runs hundreds of triggers in one loop: a slow cluster may not hold it up."""
    longest = airflow_alone.answer(
        "import asyncio, json, logging, time\n"
        "from types import SimpleNamespace\n"
        "from gemma_batch.ops.airflow.watch import watch\n"
        "class Slow:\n"
        "    asked = 0\n"
        "    def find(self, job):\n"
        "        time.sleep(2)\n"
        "        self.asked += 1\n"
        "        ended = self.asked > 1\n"
        "        return SimpleNamespace(active=not ended, message='', exit_code=0, output='o',\n"
        "                               status='SUCCEEDED' if ended else 'RUNNING')\n"
        "    async def tail(self, job, skip=0):\n"
        "        await asyncio.sleep(0.1)\n"
        "        yield 'a line\\n'\n"
        "async def connect():\n"
        "    return jobs\n"
        "async def main():\n"
        "    task = asyncio.create_task(watch(connect, 'j', logging.getLogger(), every=0.1))\n"
        "    longest, last = 0.0, time.monotonic()\n"
        "    while not task.done():\n"
        "        await asyncio.sleep(0.01)\n"
        "        now = time.monotonic()\n"
        "        longest, last = max(longest, now - last), now\n"
        "    return longest, task.result()['status']\n"
        "jobs = Slow()\n"
        "print(json.dumps(asyncio.run(main())))"
    )
    assert longest[1] == "SUCCEEDED"
    assert longest[0] < 1.8
