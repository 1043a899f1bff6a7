"""The command line: parse, call the API, print, exit code. Nothing is decided here.

What people read goes to stderr; `--json` puts one JSON document on stdout.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gemma_batch.errors import GemmaBatchError

if TYPE_CHECKING:
    from gemma_batch.run.report import Report

INTERRUPTED, UNEXPECTED, TOO_MANY_FAILED = 130, 1, 3

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
    """One line for people."""
    print(message, file=sys.stderr, flush=True)


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="INPUT", help="A file, folder or glob.")],
    to: Annotated[Path, typer.Option("--to", help="The spec to write.")] = Path("job.yaml"),
    model: Annotated[str, typer.Option(help="The model to start with.")] = "google/gemma-3-4b-it",
    force: Annotated[bool, typer.Option(help="Overwrite an existing spec.")] = False,
) -> None:
    """Write a commented starter spec from a look at the input's columns."""
    from gemma_batch.errors import OutputError
    from gemma_batch.starter import starter_spec

    text = starter_spec(path, model)
    if to.exists() and not force:
        raise OutputError(f"{str(to)!r} exists: choose another --to, or --force to replace it")
    to.write_text(text, encoding="utf-8")
    say(f"wrote {to}; next: gemma-batch plan {to} --gpu H100-80, then gemma-batch run {to}")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the Gemma models that are known by name."""
    from gemma_batch.show import models_rows, print_models

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
        float | None, typer.Option(help="Price of a GPU-hour, to estimate the cost.", min=0)
    ] = None,
    output_tokens: Annotated[
        float | None,
        typer.Option(help="Mean answer in tokens to reckon with (default: the longest).", min=1),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check a job; show placement, sample, estimate and the first prompt. Starts nothing."""
    from gemma_batch.show import plan_facts, print_plan
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
    """Run a job, or go on with one that was stopped."""
    from gemma_batch.run.driver import run as run_job
    from gemma_batch.run.progress import make_progress
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
    from gemma_batch.run.progress import make_progress
    from gemma_batch.run.retry import retry as retry_job

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
    _end(report, 0, as_json=as_json)


@app.command()
def status(output: OutputUrl, as_json: AsJson = False) -> None:
    """Show how an output stands; needs no cluster."""
    from gemma_batch.run.status import status as look
    from gemma_batch.show import status_text

    found = look(output)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        say(status_text(found))


@app.command()
def report(output: OutputUrl, as_json: AsJson = False) -> None:
    """Show what a run did: totals, speed, failures by code."""
    from gemma_batch.run.status import current_report
    from gemma_batch.show import report_text

    found = current_report(output)
    if as_json:
        print(found.to_json())
    else:
        say(report_text(found))


def _end(report: Report, limit: int, *, as_json: bool) -> None:
    from gemma_batch.show import report_text

    if as_json:
        print(report.to_json())
    say(report_text(report))
    if report.failed > limit:
        say(f"{report.failed:,} rows failed, more than policy.max_failed allows ({limit:,})")
        raise typer.Exit(TOO_MANY_FAILED)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that DESIGN and README list."""
    try:
        # Not standalone, typer hands an exit code back instead of ending the process.
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
        # typer wraps click; its usage errors print themselves and carry their exit code.
        if hasattr(err, "show") and hasattr(err, "exit_code"):
            err.show()
            sys.exit(err.exit_code)
        traceback.print_exc()
        say(f"unexpected: {type(err).__name__}: {err}")
        sys.exit(UNEXPECTED)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
