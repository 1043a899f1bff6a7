"""The commands that make, check, run and retry a job.

Each parses its arguments, calls the API, prints and returns an exit code.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_batch.cli.app import (
    Address,
    AsJson,
    Grow,
    OutputUrl,
    Overrides,
    SpecPath,
    Verbose,
    app,
    say,
    with_grow,
)
from gemma_batch.errors import TOO_MANY_FAILED, BudgetError

if TYPE_CHECKING:
    from gemma_batch.reporting.report import Report


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="INPUT", help="A file, folder or glob.")],
    to: Annotated[str, typer.Option("--to", help="The spec to write.")] = "job.yaml",
    model: Annotated[str, typer.Option(help="The model to start with.")] = "google/gemma-3-4b-it",
    force: Annotated[bool, typer.Option(help="Overwrite an existing spec.")] = False,
) -> None:
    """Write a commented starter spec for the columns of the input."""
    from gemma_batch.cli.arguments import exists, write_text
    from gemma_batch.cli.starter import starter_spec
    from gemma_batch.errors import OutputError

    text = starter_spec(path, model)
    if exists(to) and not force:
        raise OutputError(f"{to!r} exists: choose another --to, or --force to replace it")
    write_text(to, text)
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
    gpu: Annotated[
        str | None,
        typer.Option(help="Plan for this GPU, e.g. H100-80, or for the cpu of this machine."),
    ] = None,
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
    grow: Grow = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check a job; show placement, sample, estimate and the first prompt. Starts nothing."""
    if not as_json:
        say("planning ...")
    from gemma_batch.cli.show_plan import plan_facts, print_plan
    from gemma_batch.spec import JobSpec

    facts = plan_facts(
        JobSpec.load(spec, with_grow(overrides, grow)),
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
    grow: Grow = False,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a job, or go on with a job that was stopped."""
    from gemma_batch.cli.shown import shown
    from gemma_batch.spec import JobSpec

    job = JobSpec.load(spec, with_grow(overrides, grow))
    try:
        with shown(job.policy.progress_seconds, verbose=verbose) as progress:
            from gemma_batch.driver.run import run as run_job  # takes most of the time of a start

            report = run_job(job, address=address, progress=progress, verbose=verbose)
    except BudgetError as err:
        _show(err.report, as_json=as_json)
        raise
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
    from gemma_batch.cli.arguments import output_of
    from gemma_batch.cli.shown import shown
    from gemma_batch.driver.retry import retried_spec
    from gemma_batch.driver.retry import retry as retry_job

    output = output_of(output)
    policy = retried_spec(output, overrides or ()).policy
    try:
        with shown(policy.progress_seconds, verbose=verbose) as progress:
            report = retry_job(
                output,
                codes=codes or (),
                overrides=overrides or (),
                address=address,
                progress=progress,
                verbose=verbose,
            )
    except BudgetError as err:
        _show(err.report, as_json=as_json)
        raise
    _end(report, policy.failure_limit(report.rows), as_json=as_json)


def _show(report: Report, *, as_json: bool) -> None:
    from gemma_batch.cli.show import report_text

    if as_json:
        print(report.to_json())
    say(report_text(report))


def _end(report: Report, limit: int, *, as_json: bool) -> None:
    _show(report, as_json=as_json)
    if report.failed > limit:
        say(f"{report.failed:,} rows failed, more than policy.max_failed allows ({limit:,})")
        raise typer.Exit(TOO_MANY_FAILED)
