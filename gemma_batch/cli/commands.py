"""The commands: each parses its arguments, calls the API, prints and returns an exit code.

The API makes all decisions. Text for people goes to stderr. `--json` puts one JSON document on
stdout.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gemma_batch.errors import INTERRUPTED, TOO_MANY_FAILED, GemmaBatchError

if TYPE_CHECKING:
    from gemma_batch.ops.ray_jobs import RayJobs
    from gemma_batch.reporting.report import Report

UNEXPECTED = 1

app = typer.Typer(
    name="gemma-batch",
    help="Distributed offline batch inference for Gemma models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The job's YAML file.")]
OutputUrl = Annotated[str, typer.Argument(metavar="OUTPUT", help="The job's output.path.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field of the spec; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to run on (default: RAY_ADDRESS, else this machine)."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the workers' own logs.")]


def say(message: str = "") -> None:
    """Print one line for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="INPUT", help="A file, folder or glob.")],
    to: Annotated[Path, typer.Option("--to", help="The spec to write.")] = Path("job.yaml"),
    model: Annotated[str, typer.Option(help="The model to start with.")] = "google/gemma-3-4b-it",
    force: Annotated[bool, typer.Option(help="Overwrite an existing spec.")] = False,
) -> None:
    """Write a commented starter spec for the columns of the input."""
    from gemma_batch.cli.starter import starter_spec
    from gemma_batch.errors import OutputError

    text = starter_spec(path, model)
    if to.exists() and not force:
        raise OutputError(f"{str(to)!r} exists: choose another --to, or --force to replace it")
    to.write_text(text, encoding="utf-8")
    say(f"wrote {to}; next: gemma-batch plan {to} --gpu H100-80, then gemma-batch run {to}")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the known Gemma models."""
    from gemma_batch.cli.show import models_rows, print_models

    rows = models_rows()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_models(rows)


@app.command()
def plan(
    spec: SpecPath,
    gpu: Annotated[str | None, typer.Option(help="Plan for this GPU, e.g. H100-80.")] = None,
    gpus: Annotated[int, typer.Option(help="How many of them.", min=1)] = 8,
    price: Annotated[
        float | None,
        typer.Option(
            help="Price of a GPU-hour, to estimate the cost (default: resources.price_per_hour).",
            min=0,
        ),
    ] = None,
    output_tokens: Annotated[
        float | None,
        typer.Option(help="Mean answer in tokens to reckon with (default: the longest).", min=1),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check a job; show placement, sample, estimate and the first prompt. Starts nothing."""
    from gemma_batch.cli.show_plan import plan_facts, print_plan
    from gemma_batch.spec import JobSpec

    facts = plan_facts(
        JobSpec.load(spec, overrides or ()),
        gpu=gpu,
        gpus=gpus,
        price=price,
        output_tokens=output_tokens,
    )
    if as_json:
        print(json.dumps(facts, indent=1, default=str))
    else:
        print_plan(facts)


@app.command()
def run(
    spec: SpecPath,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a job, or go on with a job that was stopped."""
    from gemma_batch.driver.run import run as run_job
    from gemma_batch.reporting.progress import make_progress
    from gemma_batch.spec import JobSpec

    job = JobSpec.load(spec, overrides or ())
    progress = make_progress(job.policy.progress_seconds)
    try:
        report = run_job(job, address=address, progress=progress, verbose=verbose)
    finally:
        progress.close()
    _end(report, job.policy.failure_limit(report.rows), as_json=as_json)


@app.command()
def retry(
    output: OutputUrl,
    codes: Annotated[
        list[str] | None,
        typer.Option("--code", help="Failure code to retry, or 'all'; may be repeated."),
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run the failed rows of a finished run again."""
    from gemma_batch.driver.retry import retried_spec
    from gemma_batch.driver.retry import retry as retry_job
    from gemma_batch.reporting.progress import make_progress

    policy = retried_spec(output, overrides or ()).policy
    progress = make_progress(10.0)
    try:
        report = retry_job(
            output,
            codes=codes or (),
            overrides=overrides or (),
            address=address,
            progress=progress,
            verbose=verbose,
        )
    finally:
        progress.close()
    _end(report, policy.failure_limit(report.rows), as_json=as_json)


@app.command()
def status(output: OutputUrl, as_json: AsJson = False) -> None:
    """Show the state of an output; needs no cluster."""
    from gemma_batch.cli.show import status_text
    from gemma_batch.reporting.status import status as look

    found = look(output)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(status_text(found))


@app.command()
def report(
    output: OutputUrl,
    as_json: AsJson = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page that can be looked at and mailed.")
    ] = None,
) -> None:
    """Show the totals, the speed and the failures by code of a run."""
    from gemma_batch.cli.show import report_text
    from gemma_batch.reporting.status import current_page, current_report

    if html is not None:
        html.write_text(current_page(output), encoding="utf-8")
        say(f"wrote {html}")
        return
    found = current_report(output)
    if as_json:
        print(found.to_json())
    else:
        say(report_text(found))


@app.command()
def clean(
    output: OutputUrl,
    all_copies: Annotated[
        bool,
        typer.Option("--all-copies", help="Sorted copies that a retry would read, too."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only list.")] = False,
    as_json: AsJson = False,
) -> None:
    """List or remove what starts that died left in an output, and copies that nothing reads."""
    from gemma_batch.cli.show import cleaned_text
    from gemma_batch.driver.clean import clean as clean_output
    from gemma_batch.reporting.progress import make_progress

    progress = make_progress(10.0)
    try:
        found = clean_output(output, all_copies=all_copies, dry_run=not yes, progress=progress)
    finally:
        progress.close()
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(cleaned_text(found))


JobName = Annotated[str, typer.Argument(metavar="JOB", help="Submission id, or the output.path.")]
Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's dashboard, http://HOST:8265."),
]


@app.command()
def submit(
    spec: SpecPath,
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
    from gemma_batch.errors import SpecError
    from gemma_batch.ops.ray_jobs import RayJobs
    from gemma_batch.spec import JobSpec

    wrong = next((one for one in env or () if not one.partition("=")[0] or "=" not in one), None)
    if wrong is not None:
        raise SpecError(f"--env {wrong!r} is not NAME=VALUE")
    variables = dict(one.split("=", 1) for one in env or ())
    loaded = JobSpec.load(spec, overrides or ())
    jobs = RayJobs(address)
    job = jobs.submit(loaded, python=python, env=variables)
    what = f"attached to {job.id} ({job.status})" if job.attached else f"submitted {job.id}"
    at = f" --address {address}" if address else ""
    say(f"{what}; follow it: gemma-batch logs -f {job.id}{at}")
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
    from gemma_batch.ops.ray_jobs import RayJobs

    jobs = RayJobs(address)
    found = jobs.get(job)
    if not follow:
        print(jobs.logs(found.id), end="")
        return
    _follow(jobs, found.id)
    if code := jobs.wait(found.id).result:
        raise typer.Exit(code)


@app.command()
def cancel(job: JobName, address: Dashboard = None) -> None:
    """Stop a submitted job; committed parts stay, and submitting it again goes on from there."""
    from gemma_batch.ops.ray_jobs import STOP_SECONDS, RayJobs

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
    for text in jobs.follow(job):
        print(text, end="", file=sys.stderr, flush=True)


def _end(report: Report, limit: int, *, as_json: bool) -> None:
    from gemma_batch.cli.show import report_text

    if as_json:
        print(report.to_json())
    say(report_text(report))
    if report.failed > limit:
        say(f"{report.failed:,} rows failed, more than policy.max_failed allows ({limit:,})")
        raise typer.Exit(TOO_MANY_FAILED)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with one of the exit codes in the README."""
    try:
        # With standalone_mode off, typer returns the exit code and does not end the process.
        code = app(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except GemmaBatchError as err:
        say(f"error: {err}")
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted; what is committed stays, run the same command again to go on")
        sys.exit(INTERRUPTED)
    except Exception as err:
        # typer wraps click. A usage error of click can print itself and has an exit code.
        if hasattr(err, "show") and hasattr(err, "exit_code"):
            err.show()
            sys.exit(err.exit_code)
        traceback.print_exc()
        say(f"unexpected: {type(err).__name__}: {err}")
        sys.exit(UNEXPECTED)
    sys.exit(code or 0)
