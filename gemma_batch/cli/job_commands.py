"""The commands about jobs that were submitted to a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_batch.cli.app import AsJson, Grow, Overrides, SpecPath, app, say, with_grow

if TYPE_CHECKING:
    from gemma_batch.ops.ray_jobs import RayJobs

RAYS_LINE = re.compile(r"\S+ \S+\tINFO job_manager\.py:\d+ -- |Running entrypoint for job \S+: ")
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Submission id, the output.path or the spec.")
]
Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's dashboard, http://HOST:8265."),
]


@app.command()
def submit(
    spec: SpecPath,
    grow: Grow = False,
    overrides: Overrides = None,
    address: Dashboard = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the log and end with the job's exit code.")
    ] = False,
    python: Annotated[str, typer.Option(help="The interpreter on the cluster.")] = "python",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="For the driver; no secrets."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster, or attach to it if it runs there already."""
    say("planning ...")
    from gemma_batch.cli.show import finished_text
    from gemma_batch.errors import SpecError
    from gemma_batch.ops.ray_jobs import RayJobs
    from gemma_batch.reporting.status import current_report
    from gemma_batch.spec import JobSpec

    wrong = next((one for one in env or () if not one.partition("=")[0] or "=" not in one), None)
    if wrong is not None:
        raise SpecError(f"--env {wrong!r} is not NAME=VALUE")
    variables = dict(one.split("=", 1) for one in env or ())
    loaded = JobSpec.load(spec, with_grow(overrides, grow))
    jobs = RayJobs(address)
    job = jobs.submit(loaded, python=python, env=variables)
    if job.active or not job.attached:
        what = f"attached to {job.id} ({job.status})" if job.attached else f"submitted {job.id}"
        at = f" --address {address}" if address else ""
        say(f"{what}; follow it: gemma-batch logs -f {job.id}{at}")
    else:
        say(finished_text(job, current_report(loaded.output.path)))
        wait = False
    if wait:
        _follow(jobs, job.id)
        job = jobs.wait(job.id)
    if as_json:
        print(json.dumps(dataclasses.asdict(job), indent=1))
    if wait and job.result:
        raise typer.Exit(job.result)


@app.command()
def logs(
    job: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until the job ends, with its exit code.")
    ] = False,
    address: Dashboard = None,
) -> None:
    """Print the log of a submitted job's driver."""
    from gemma_batch.cli.arguments import job_of
    from gemma_batch.ops.ray_jobs import RayJobs

    job = job_of(job)
    jobs = RayJobs(address)
    found = jobs.get(job)
    if not follow:
        print(without_rays_lines(jobs.logs(found.id)), end="")
        return
    _follow(jobs, found.id)
    if code := jobs.wait(found.id).result:
        raise typer.Exit(code)


@app.command()
def cancel(job: JobName, address: Dashboard = None) -> None:
    """Stop a submitted job; committed parts stay, and submitting it again goes on from there."""
    from gemma_batch.cli.arguments import job_of
    from gemma_batch.ops.ray_jobs import STOP_SECONDS, RayJobs

    job = job_of(job)
    jobs = RayJobs(address)
    found = jobs.get(job)
    if not found.active:
        say(f"{found.id} has ended already ({found.status})")
        return
    jobs.cancel(found.id)
    ended = jobs.wait(found.id, timeout=STOP_SECONDS)
    say(f"{ended.id}: {ended.status}; what is committed stays, submit it again to go on")


@app.command("list")
def list_jobs(address: Dashboard = None, as_json: AsJson = False) -> None:
    """List the jobs of this package on the cluster, the newest first."""
    from gemma_batch.cli.show import jobs_text
    from gemma_batch.ops.ray_jobs import RayJobs

    jobs = RayJobs(address).list()
    if as_json:
        print(json.dumps([dataclasses.asdict(job) for job in jobs], indent=1))
    else:
        say(jobs_text(jobs))


def _follow(jobs: RayJobs, job: str) -> None:
    held = ""
    for text in jobs.follow(job):
        whole, end, held = (held + text).rpartition("\n")
        print(without_rays_lines(whole + end), end="", file=sys.stderr, flush=True)
    print(without_rays_lines(held), end="", file=sys.stderr, flush=True)


def without_rays_lines(text: str) -> str:
    """The log of a driver without the lines that Ray writes when it has started the driver."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not RAYS_LINE.match(line))
