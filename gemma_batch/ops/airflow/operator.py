"""The operator: submits a spec as a Ray job, waits for the job, and hands on its totals.

A task finds its job again after any crash. The submission id is a function of output and
fingerprint, so Airflow has to remember nothing. A retry of the task attaches to the job if the job
still runs. Otherwise the retry starts the next attempt of the job, which resumes the same output.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset, AssetAlias, BaseHook, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from gemma_batch.errors import TOO_MANY_FAILED, ClusterError, UserError
from gemma_batch.ops.airflow.connection import DEFAULT_CONN_ID, jobs_of, page_of
from gemma_batch.ops.airflow.facts import facts_of, failures_of
from gemma_batch.ops.airflow.lineage import lineage_of, place_of
from gemma_batch.ops.airflow.link import RayJobLink
from gemma_batch.ops.airflow.trigger import GemmaBatchTrigger
from gemma_batch.ops.airflow.watch import OVERDUE, watch

if TYPE_CHECKING:
    from gemma_batch.ops.ray_jobs import Job, RayJobs
    from gemma_batch.spec import JobSpec


class GemmaBatchOperator(BaseOperator):
    """Run a spec on a Ray cluster; the result is a small dict (see `facts_of`).

    `spec` is a dict, or the path of a YAML file on the Airflow worker. `overrides` are a list of
    `a.b=c`, as for `--set`. Airflow renders templates in the fields of `template_fields`, except in
    a dict's `prompt`: its braces name columns of the rows. A file is used as it is. `conn_id` names
    the Airflow connection of the cluster (see `connection`). `python` is the interpreter on the
    cluster. `env` are environment variables for the driver; put no secrets there.

    With `deferrable` the task uses an Airflow worker only while it submits and at the end.
    `execution_timeout` stops the job with and without `deferrable`. `poll_seconds` is the pause
    between two questions to the cluster. When a retry cannot help, the task fails without a retry:
    for a wrong spec, or for more failed rows than `policy.max_failed`. Each asset in `outlets` gets
    the result as the extra of its event. An `AssetAlias` gets the output as an asset.
    """

    template_fields: ClassVar[Sequence[str]] = ("spec", "overrides", "conn_id", "python", "env")
    template_fields_renderers: ClassVar[dict[str, str]] = {"spec": "yaml", "env": "json"}
    operator_extra_links = (RayJobLink(),)

    def __init__(
        self,
        *,
        spec: Mapping[str, Any] | str | Path,
        overrides: Sequence[str] = (),
        conn_id: str = DEFAULT_CONN_ID,
        python: str = "python",
        env: Mapping[str, str] | None = None,
        deferrable: bool = True,
        poll_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.overrides = overrides
        self.conn_id = conn_id
        self.python = python
        self.env = env
        self.deferrable = deferrable
        self.poll_seconds = poll_seconds
        self.job_url: str | None = None
        self._jobs: RayJobs | None = None
        self._submission_id: str | None = None
        self._facts: dict[str, Any] | None = None
        self._killed = False

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Render Airflow templates in a field or in a part of a field, but not in the prompt."""
        if isinstance(self.spec, Mapping) and content is self.spec.get("prompt") is not None:
            return content
        return super().render_template(content, *args, **kwargs)

    def job_spec(self) -> JobSpec:
        """The validated spec. Raises `SpecError`."""
        from gemma_batch.spec import JobSpec
        from gemma_batch.spec.yaml_text import apply_overrides

        if isinstance(self.spec, Mapping):
            return JobSpec.from_dict(apply_overrides(dict(self.spec), self.overrides))
        return JobSpec.load(self.spec, self.overrides)

    def execute(self, context: Any) -> dict[str, Any]:
        """Submit the job or attach to it; then defer, or wait for the job in this process."""
        with _mended_by_no_retry():
            spec = self.job_spec()
            connection = BaseHook.get_connection(self.conn_id)
            jobs = self._jobs = jobs_of(connection)
            job = self._submit(jobs, spec, context)
        self.job_url = page_of(connection, job.id)
        # People need the link most while the task runs or is deferred, so it is stored now.
        context["ti"].xcom_push(key=RayJobLink().xcom_key, value=self.job_url)
        if self._killed:
            jobs.cancel(job.id)
        elif self.deferrable and job.active:
            self.defer(
                trigger=GemmaBatchTrigger(
                    conn_id=self.conn_id,
                    submission_id=job.id,
                    poll_seconds=self.poll_seconds,
                    deadline=self._deadline(),
                ),
                method_name="execute_complete",
            )
        event = asyncio.run(watch(self._connected, job.id, self.log, every=self.poll_seconds))
        return self.execute_complete(context, event)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Judge the end of the job by the trigger's `event`, and return the totals.

        Raises `AirflowFailException` when a retry cannot help, `AirflowTaskTimeout` after
        `execution_timeout`, otherwise `AirflowException` when the job has failed.
        """
        job, status, code = event["submission_id"], event["status"], event["exit_code"]
        self._submission_id = job
        self.job_url = self.job_url or page_of(BaseHook.get_connection(self.conn_id), job)
        if status == "SUCCEEDED":
            return self._publish(context, facts_of(event["output"], job))
        if code == TOO_MANY_FAILED:
            self._facts = facts_of(event["output"], job)
            raise AirflowFailException(
                f"{job}: {failures_of(self._facts)}, more than policy.max_failed allows; see "
                f"{event['output']}/errors, and `gemma-batch retry`"
            )
        if code == UserError.exit_code:
            raise AirflowFailException(f"{job}: {event['message']}")
        if status == OVERDUE:
            raise AirflowTaskTimeout(f"{job} was stopped after {self.execution_timeout}")
        raise AirflowException(
            f"{job} ended as {status}"
            + (f" with exit code {code}" if code else "")
            + "; what is committed stays, and a retry goes on from there\n"
            + event["message"]
        )

    def on_kill(self) -> None:
        """Stop the job, after SIGTERM or the task's timeout; the job has time to end in order.

        Airflow calls this in a signal handler. It therefore uses the existing client and does not
        wait.
        """
        self._killed = True
        if self._jobs is not None and self._submission_id is not None:
            self._jobs.cancel(self._submission_id)
            self.log.info("stopped %s", self._submission_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The input and the output of the task, for Airflow's OpenLineage provider."""
        job = (self._submission_id, self.job_url or "") if self._submission_id else None
        return lineage_of(self.job_spec(), self._facts, job)

    def _submit(self, jobs: RayJobs, spec: JobSpec, context: Any) -> Job:
        ti = context["ti"]
        job = jobs.submit(
            spec,
            python=self.python,
            env=self.env,
            metadata={
                "airflow.dag_id": ti.dag_id,
                "airflow.task_id": ti.task_id,
                "airflow.run_id": ti.run_id,
            },
        )
        self._submission_id = job.id
        if job.attached:
            self.log.info("attached to %s (%s)", job.id, job.status)
        else:
            self.log.info("submitted %s", job.id)
        return job

    async def _connected(self) -> RayJobs:
        assert self._jobs is not None
        return self._jobs

    def _deadline(self) -> float | None:
        limit = self.execution_timeout
        return None if limit is None else time.time() + limit.total_seconds()

    def _publish(self, context: Any, facts: dict[str, Any]) -> dict[str, Any]:
        self._facts = facts
        for outlet in self.outlets:
            event = context["outlet_events"][outlet]
            if isinstance(outlet, AssetAlias):
                event.add(Asset(_uri(facts["output"])), extra=facts)
            else:
                event.extra = facts
        self.log.info(
            "%s: %s of %s rows answered, %s failed; %s",
            *(facts[name] for name in ("name", "answered", "rows", "failed", "output")),
        )
        return facts


@contextlib.contextmanager
def _mended_by_no_retry() -> Iterator[None]:
    """Fail the task without a retry when a person has to change something first."""
    try:
        yield
    except ClusterError:  # a cluster may come back
        raise
    except UserError as err:
        raise AirflowFailException(str(err)) from err


def _uri(output: str) -> str:
    namespace, name = place_of(output)
    return f"file://{name}" if namespace == "file" else f"{namespace}/{name}"
