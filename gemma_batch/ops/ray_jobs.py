"""Ray jobs: submit a spec to a cluster, attach to a running job, follow, cancel and list jobs.

The driver runs on the cluster, so it goes on when the person's terminal ends. Only the spec
travels with the job, as its working directory: the image of the cluster contains this package. A
submission id is a function of output and fingerprint. When the same spec is submitted twice, the
second call attaches to the first job, and the job does not run twice. The successor of a failed or
stopped job gets the next number and resumes the same output.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gemma_batch.errors import (
    INTERRUPTED,
    ClusterError,
    ClusterLost,
    GemmaBatchError,
    OutputError,
    SpecError,
    UserError,
)
from gemma_batch.ops.dashboard import asking, connect, dashboard_url, last_line
from gemma_batch.planning.answer_files import with_definitions
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.reporting.status import current_report
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import is_local

STOP_SECONDS = 120  # time for a driver to end its engines and release its lease before a kill
SUBMIT_TRIES, PAUSE = 10, 2.0  # pause in seconds; a cluster that just started has no job agent yet
ATTEMPTS = 1000
SPEC_FILE = "job.yaml"
POLICY = "gemma_batch.policy"  # the key of a job's metadata for a digest of its `policy`
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A Ray job as the cluster knows it.

    `status` is Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED. `exit_code` is the exit
    code of the driver, None while the driver runs. `started` and `ended` are Unix seconds.
    `attached` is True when `submit` found the job on the cluster instead of starting it; the job
    may have ended (`active`).
    """

    id: str
    status: str
    message: str = ""
    exit_code: int | None = None
    name: str = ""
    output: str = ""
    fingerprint: str = ""
    rows: int | None = None
    started: float | None = None
    ended: float | None = None
    attached: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether the job has not ended yet."""
        return self.status not in ENDED

    @property
    def result(self) -> int:
        """The exit code for a command that waited for this job."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return INTERRUPTED
        return self.exit_code or 1


def submission_id(name: str, output: str, fingerprint: str, attempt: int = 1) -> str:
    """The submission id of a job, for example `support-tickets-3f9a0c12b4de-r1`.

    Equal name, output, fingerprint and attempt give an equal id.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "job"
    digest = hashlib.sha256(f"{output.rstrip('/')}\0{fingerprint}".encode()).hexdigest()[:12]
    return f"{slug}-{digest}-r{attempt}"


class RayJobs:
    """The jobs of one cluster.

    `address` is the URL of the dashboard. Without it, RAY_API_SERVER_ADDRESS or RAY_ADDRESS counts
    if its value is a URL, otherwise this machine. Nothing in the environment overrides a given
    address. `token` is Ray's authentication token (default: from the places where Ray itself
    looks). Raises `UserError` for an address that is no dashboard's, `ClusterError` when no cluster
    answers or the cluster refuses the token. Every method that asks the cluster raises
    `ClusterLost` when the cluster no longer answers.
    """

    def __init__(self, address: str | None = None, *, token: str | None = None) -> None:
        self.address = dashboard_url(address)
        self._client = connect(self.address, token)

    def submit(
        self,
        spec: JobSpec,
        *,
        python: str = "python",
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Job:
        """Start a job for the spec, or attach to the job that already works on the spec.

        When such a job has succeeded and the output is complete, the finished job is returned and
        nothing is started, unless `policy` has changed since, or the input grows.
        The spec is checked on this machine first, so that a wrong spec never reaches the cluster.
        `python` is the command of the interpreter on the cluster. `env` are environment variables
        for the driver. `metadata` are facts that the cluster stores with a new job, besides the
        facts of this package. Everybody who reaches the cluster's API can read `env` and
        `metadata`, so put no secrets there. Raises `UserError`, `ClusterLost`, and
        `GemmaBatchError` when the cluster does not take the job.
        """
        _check_travels(spec)
        spec = with_definitions(spec)  # the cluster has neither the files nor the classes
        plan = make_plan(spec, need_files=False)
        fingerprint = plan.fingerprint().digest
        self._check_nobody_else(spec, fingerprint)
        known = {job.id: job for job in self._all()}
        for attempt in range(1, ATTEMPTS):
            job = submission_id(spec.name, spec.output.path, fingerprint, attempt)
            found = known.get(job)
            if found is None:
                facts = {**(metadata or {}), **_metadata(plan, fingerprint)}
                return self._start(job, spec, facts, python=python, env=env or {})
            if found.active or _is_finished(found, spec):
                return _attached(found)
        raise GemmaBatchError(f"{spec.name!r} has ended {ATTEMPTS} times on this cluster")

    def _check_nobody_else(self, spec: JobSpec, fingerprint: str) -> None:
        for job in self.list():
            same = job.output.rstrip("/") == spec.output.path.rstrip("/")
            if same and job.active and job.fingerprint != fingerprint:
                if spec.input.grow:
                    raise ClusterError(
                        f"job {job.id!r} is writing to {job.output!r}, and does not know the files "
                        "that were added since it began: submit again when it has ended"
                    )
                raise UserError(
                    f"job {job.id!r} is writing to {job.output!r} with another configuration or "
                    f"input: wait for it, cancel it (gemma-batch cancel {job.id}), or name "
                    "another output.path"
                )

    def _start(
        self,
        job: str,
        spec: JobSpec,
        metadata: dict[str, str],
        *,
        python: str,
        env: Mapping[str, str],
    ) -> Job:
        given = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **env}
        with tempfile.TemporaryDirectory(prefix="gemma-batch-") as folder:
            text = yaml.safe_dump(spec.to_dict(), sort_keys=False, allow_unicode=True)
            (Path(folder) / SPEC_FILE).write_text(text, encoding="utf-8")
            for tries in range(1, SUBMIT_TRIES + 1):
                try:
                    self._client.submit_job(
                        entrypoint=f"{python} -m gemma_batch.cli run {SPEC_FILE}",
                        submission_id=job,
                        runtime_env={"working_dir": folder, "env_vars": given},
                        metadata=metadata,
                    )
                except (RuntimeError, OSError) as err:
                    # The answer may be lost, or another process may have submitted the job first.
                    found = None
                    with contextlib.suppress(ClusterLost):
                        found = self.find(job)
                    if found is not None:
                        return _attached(found)
                    if tries == SUBMIT_TRIES:
                        raise GemmaBatchError(
                            f"the cluster at {self.address!r} did not take the job: "
                            f"{last_line(err)}"
                        ) from err
                    time.sleep(PAUSE)
                else:
                    break
        return self.get(job)

    def find(self, job: str) -> Job | None:
        """A job by its submission id; None when the cluster has no such job."""
        try:
            return _job(self._client.get_job_info(job))
        except (RuntimeError, OSError):
            # Ray's client raises the same type for an unknown job and for a missing answer. Its
            # list of jobs tells the two apart.
            return next((one for one in self._all() if one.id == job), None)

    def get(self, job: str) -> Job:
        """A job by its submission id, or by the path of its output.

        Of several jobs on one output, an active job comes first, then the newest. Raises
        `UserError` when the cluster has no such job.
        """
        if (found := self.find(job)) is not None:
            return found
        mine = [one for one in self.list() if one.output.rstrip("/") == job.rstrip("/")]
        if not mine:
            raise UserError(
                f"the cluster at {self.address!r} has no job with the id or output {job!r}; "
                "`gemma-batch list` shows those it has (they are forgotten when it restarts)"
            )
        return max(mine, key=lambda one: (one.active, one.started or 0.0))

    def list(self) -> list[Job]:
        """The jobs of this package on the cluster, the newest first."""
        ours = [job for job in self._all() if job.fingerprint]
        return sorted(ours, key=lambda job: job.started or 0.0, reverse=True)

    def _all(self) -> Sequence[Job]:
        with asking(self.address):
            return [_job(found) for found in self._client.list_jobs() if found.submission_id]

    def logs(self, job: str) -> str:
        """The text that the driver has printed so far."""
        with asking(self.address):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str) -> Iterator[str]:
        """Yield the text that the driver prints, from the beginning until the job ends."""
        loop = asyncio.new_event_loop()
        lines = self.tail(job)
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(lines))
                except StopAsyncIteration:
                    return
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def tail(self, job: str, *, skip: int = 0) -> AsyncIterator[str]:
        """The same as `follow`, without blocking the event loop and without the first characters.

        `skip` is the number of characters to leave out. A connection can go silent without an
        error, and this method does not notice that. A caller that has to know of the job's end
        must ask for the job's state.
        """
        import aiohttp

        seen = skip
        while True:
            ended = not (await asyncio.to_thread(self.get, job)).active
            old = seen
            # After a broken connection the loop connects again.
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
                async for text in self._client.tail_job_logs(job):
                    fresh, old = text[old:], max(0, old - len(text))
                    seen += len(fresh)
                    if fresh:
                        yield fresh
            if ended:
                return
            await asyncio.sleep(0.5)

    def cancel(self, job: str) -> None:
        """Ask the driver to stop, within `STOP_SECONDS` seconds. Committed parts stay."""
        with asking(self.address):
            self._client.stop_job(job)

    def wait(self, job: str, *, timeout: float | None = None, every: float = 1.0) -> Job:
        """Wait until the job has ended, at most `timeout` seconds; returns its state then.

        `every` is the pause between two questions to the cluster, in seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self.get(job)
            if not found.active or (deadline is not None and time.monotonic() > deadline):
                return found
            time.sleep(every)


def _check_travels(spec: JobSpec) -> None:
    """Raise `SpecError` for a relative path, which is another place on another machine."""
    places = [("input.path", path) for path in spec.input.paths]
    places.append(("output.path", spec.output.path))
    # A hub id looks like a relative path. It is a relative path if such a folder exists.
    places += [
        ("model", route.model) for route in spec.effective_routes if Path(route.model).exists()
    ]
    for name, path in places:
        if is_local(path) and not Path(path.removeprefix("file://")).is_absolute():
            raise SpecError(
                f"{name}: {path!r} is relative to this machine's current folder, where the job "
                "will not run: use s3:// or an absolute path that all nodes share"
            )


def _is_finished(job: Job, spec: JobSpec) -> bool:
    """Whether the job has done everything that the spec asks for, and its output still exists.

    A new driver looks for new files of an input that grows, and applies another policy. Jobs that
    an older version submitted do not tell their policy.
    """
    same = job.metadata.get(POLICY, _policy_digest(spec)) == _policy_digest(spec)
    if job.status != "SUCCEEDED" or not same or spec.input.grow:
        return False
    try:
        return current_report(spec.output.path).complete
    except OutputError:
        return False


def _policy_digest(spec: JobSpec) -> str:
    text = json.dumps(spec.to_dict().get("policy"), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _metadata(plan: Plan, fingerprint: str) -> dict[str, str]:
    found = {
        "gemma_batch.name": plan.spec.name,
        "gemma_batch.output": plan.spec.output.path,
        "gemma_batch.fingerprint": fingerprint,
        POLICY: _policy_digest(plan.spec),
        "gemma_batch.shards": str(len(plan.survey.shards)),
    }
    # To count the rows of another format, all files would have to be read.
    if all(shard.format == "parquet" for shard in plan.survey.shards):
        found["gemma_batch.rows"] = str(sum(unit.expected for unit in plan.units()))
    return found


def _job(details: Any) -> Job:
    metadata = dict(details.metadata or {})
    rows = metadata.get("gemma_batch.rows")
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        name=metadata.get("gemma_batch.name", ""),
        output=metadata.get("gemma_batch.output", ""),
        fingerprint=metadata.get("gemma_batch.fingerprint", ""),
        rows=int(rows) if rows else None,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        metadata=metadata,
    )


def _attached(job: Job) -> Job:
    return replace(job, attached=True)
