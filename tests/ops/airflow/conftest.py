"""A real Airflow in an environment and a home of its own, beside the platform's Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.helpers import ROOT, environment
from tests.warm import Warm

if TYPE_CHECKING:
    from tests.ops.conftest import Platform

HERE = Path(__file__).parent
UNIT = 10  # rows
# What `dag.test` imports sooner or later.
MODULES = [
    "airflow.dag_processing.dagbag",
    "airflow.models.asset",
    "airflow.models.xcom",
    "airflow.sdk.execution_time.task_runner",
    "airflow.jobs.triggerer_job_runner",
    "airflow.api_fastapi.app",
    "airflow.api_fastapi.execution_api.app",
    "gemma_batch.ops.airflow",
    "gemma_batch.ops.ray_jobs",
]
SpecOf = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Airflow:
    """The interpreter of Airflow's environment, its home, and what processes in it need."""

    python: Path
    home: Path
    env: dict[str, str]
    warm: Warm

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Python in that environment, with Airflow imported, which has to succeed."""
        return self._good(self.warm.run(*arguments, env=self.env, timeout=timeout))

    def run_cold(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """With nothing imported."""
        command = [str(self.python), *arguments]
        text: dict[str, Any] = {"capture_output": True, "text": True}
        return self._good(subprocess.run(command, env=self.env, timeout=timeout, **text))

    @staticmethod
    def _good(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        assert done.returncode == 0, done.stderr[-6000:]
        return done

    def answer(self, code: str) -> Any:
        """What a piece of code prints as JSON in its last line; Airflow logs to stdout."""
        return json.loads(self.run("-c", code).stdout.splitlines()[-1])

    def dag_test(
        self, dag_id: str, conf: dict[str, Any], *, deferrable: bool | None = None
    ) -> tuple[dict[str, Any], str]:
        """What became of a DAG run (see `dag_test.py`), and its log."""
        done = self.run(str(HERE / "dag_test.py"), dag_id, json.dumps(conf), json.dumps(deferrable))
        # Loggers that were made with the imports still write to stdout.
        *log, found = done.stdout.splitlines()
        return json.loads(found), "\n".join([*log, done.stderr])


def airflow_python() -> Path:
    """The interpreter of Airflow's environment; a test that cannot find it fails."""
    venv = Path(os.environ.get("GEMMA_BATCH_AIRFLOW_VENV", ROOT / ".venv-airflow"))
    python = venv / "bin" / "python"
    if not python.exists():
        pytest.fail(
            f"no Airflow at {str(venv)!r}: `make test` sets it up, and so does `bash "
            "scripts/setup_airflow.sh .venv-airflow .venv`; GEMMA_BATCH_AIRFLOW_VENV names another"
        )
    return python


@pytest.fixture(scope="session")
def airflow_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Airflow without a database or a cluster: for looking at objects."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    env = environment(
        AIRFLOW_HOME=str(home),
        HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(home / "dags"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="False",
        AIRFLOW__OPENLINEAGE__DISABLED="True",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
    )
    for name in [name for name in env if name.startswith("AIRFLOW_CONN_")]:
        del env[name]
    python = airflow_python()
    warm = Warm(str(python), MODULES, env)
    yield Airflow(python, home, env, warm)
    warm.close()


@pytest.fixture(scope="session")
def airflow(airflow_alone: Airflow, platform: Platform) -> Airflow:
    """With a database, the DAGs, and the connection to the platform's cluster."""
    for path in (ROOT / "jobs" / "airflow_dag.py", HERE / "dags.py"):
        shutil.copy(path, airflow_alone.home / "dags" / path.name)
    address = urlsplit(platform.address)
    airflow_alone.env["AIRFLOW_CONN_GEMMA_BATCH_RAY"] = json.dumps(
        {
            "conn_type": "http",
            "host": address.hostname,
            "port": address.port,
            "password": platform.token,
        }
    )
    airflow_alone.run("-m", "airflow", "db", "migrate")
    return airflow_alone


@pytest.fixture
def spec_of(tiny: str, tmp_path: Path) -> SpecOf:
    """Makes a job on the echo engine over `rows` documents that takes rows / rate seconds."""

    def make(name: str, *, rows: int, rate: float, **more: Any) -> dict[str, Any]:
        table = pa.table({"id": list(range(rows)), "doc": [f"document {n}" for n in range(rows)]})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=UNIT)
        return {
            "name": name,
            "input": {"path": str(tmp_path / f"{name}.parquet"), "id": "id"},
            "prompt": {"user": "{{ doc }}"},
            "model": tiny,
            "sampling": {"max_tokens": 4},
            "output": {"path": str(tmp_path / f"{name}-out")},
            "resources": {
                "engine": "echo",
                "max_model_len": 256,
                "replicas": 1,
                "engine_args": {"rows_per_second": rate},
            },
            "policy": {"unit_rows": UNIT, "progress_seconds": 1},
            **more,
        }

    return make
