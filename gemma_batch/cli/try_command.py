"""The command that asks a sample of a job's rows before the job is run."""

from __future__ import annotations

from typing import Annotated

import typer

from gemma_batch.cli.app import (
    Address,
    AsJson,
    Grow,
    Overrides,
    SpecPath,
    Verbose,
    app,
    say,
    with_grow,
)


@app.command("try")
def try_(
    spec: SpecPath,
    n: Annotated[int, typer.Option("-n", help="How many rows to ask.", min=1)] = 200,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="A model to ask in place of the spec's; may be repeated, to compare."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
    html: Annotated[
        str | None, typer.Option(help="Write a page with all rows that were asked.")
    ] = None,
    grow: Grow = False,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Ask random rows for real; show answers, failures, speed and the bill of the whole job."""
    from gemma_batch.cli.arguments import check_text, write_text
    from gemma_batch.cli.show_try import print_tried
    from gemma_batch.cli.shown import shown
    from gemma_batch.driver.trial import try_ as try_job
    from gemma_batch.errors import TOO_MANY_FAILED
    from gemma_batch.reporting.tried_page import tried_page
    from gemma_batch.spec import JobSpec

    if html is not None:
        check_text(html)
    job = JobSpec.load(spec, with_grow(overrides, grow))
    with shown(job.policy.progress_seconds, verbose=verbose) as progress:
        tried = try_job(
            job,
            n,
            models=models or (),
            seed=seed,
            address=address,
            progress=progress,
            verbose=verbose,
        )
    if html is not None:
        write_text(html, tried_page(tried.trials, tried.agreements))
        say(f"wrote {html}")
    if as_json:
        print(tried.to_json())
    else:
        print_tried(tried)
    for trial in tried.trials:
        if not trial.passes:
            say(
                f"about {trial.expected_failures:,} rows of the whole would fail, more than "
                f"policy.max_failed allows ({trial.limit:,})"
            )
    if not tried.passes:
        raise typer.Exit(TOO_MANY_FAILED)
