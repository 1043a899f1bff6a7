"""Show try: what the command `try` found, as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemma_batch.reporting.display import safe
from gemma_batch.texts import counted, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemma_batch.driver.trial import Tried
    from gemma_batch.reporting.agreement import Agreement
    from gemma_batch.reporting.bill import Bill
    from gemma_batch.reporting.tried import Trial
    from gemma_batch.reporting.tried_speed import RouteSpeed

SHOWN_ROWS = 5  # rows with their answers
MESSAGE_CHARS = 200


def print_tried(tried: Tried) -> None:
    """Print the result of a try, on stderr."""
    from rich.console import Console

    from gemma_batch.cli.show_rows import print_rows
    from gemma_batch.reporting.samples import together

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    rows = together([trial.samples for trial in tried.trials])
    count = min(SHOWN_ROWS, len(rows))
    print_rows([rows[i * len(rows) // count] for i in range(count)])
    for trial in tried.trials:
        for line in trial_lines(trial):
            console.print(line)
        for note in trial.notes:
            console.print(f"  note     {note}", style="yellow")
    for agreement in tried.agreements:
        for line in agreement_lines(agreement):
            console.print(line)
        if agreement.differences:
            console.print("  rows with different answers:")
            print_rows(agreement.differences)


def trial_lines(trial: Trial) -> Iterator[str]:
    """The figures of one try."""
    population = trial.population
    about = "" if population.exact else "about "
    how = "asked" if trial.fresh else "asked before"
    yield (
        f"{trial.name}: {counted(trial.rows, 'row')} {how}, of {about}"
        f"{counted(population.rows, 'row')} in {counted(population.shards, 'file')} (seed "
        f"{trial.seed})"
    )
    yield f"  model    {trial.model}"
    yield f"  answered {trial.answered:,} of {trial.rows:,}"
    for one in trial.failures:
        yield (
            f"  failed   {one.code}: {one.rows:,} ({100 * one.share:.1f}%), of the whole about "
            f"{one.whole:,} ({one.low:,} to {one.high:,})"
        )
        yield f"           such as id {one.id!r}: {_short(one.message)}"
    if not trial.failures:
        from gemma_batch.reporting.intervals import wilson

        most = round(population.rows * wilson(0, trial.rows)[1])
        yield f"  failed   none; of the whole 0 to {most:,}"
    for speed in trial.speeds:
        yield from _speed_lines(speed, several=len(trial.speeds) > 1)
    if trial.bill is not None:
        yield from _bill_lines(trial.bill)
    yield f"  answers  {trial.folder}"


def _speed_lines(one: RouteSpeed, *, several: bool) -> Iterator[str]:
    route = f"{one.route}: " if several else ""
    cached = f" ({one.cached_tokens:,.1f} from the prefix cache)" if one.cached_tokens else ""
    yield (
        f"  tokens   {route}{one.prompt_tokens:,.1f} in{cached} and {one.output_tokens:,.1f} out "
        "per answered row"
    )
    if one.rows_per_second is None:
        return
    assert one.measured is not None
    fill = f"{one.running:,.0f} of {one.slots:,} sequences in use"
    yield (
        f"  speed    {route}{one.rows_per_second:,.1f} rows/s once running, with "
        f"{counted(one.engines, 'engine')}; measured {one.measured:,.1f} rows/s of one engine, "
        f"{fill}; start {duration(one.start_seconds)}"
    )


def _bill_lines(bill: Bill) -> Iterator[str]:
    low, high = bill.seconds_interval
    yield (
        f"  the bill {counted(bill.rows, 'row')}: {duration(bill.seconds)} "
        f"({duration(low)} to {duration(high)})"
    )
    if bill.gpu_hours:
        low, high = bill.gpu_hours_interval
        yield f"           {bill.gpu_hours:,.2f} GPU-hours ({low:,.2f} to {high:,.2f})"
    if bill.cost is not None and bill.cost_interval is not None:
        low, high = bill.cost_interval
        yield f"           cost {bill.cost:,.2f} ({low:,.2f} to {high:,.2f})"
    yield (
        "           in brackets: 95%, for the chance in the sample alone; another machine, or a "
        "busy one, is not in it"
    )


def agreement_lines(one: Agreement) -> Iterator[str]:
    """How two models agree."""
    first, second = one.models
    yield f"{first} and {second}"
    if one.share is None:
        yield f"  agree    not known: not one of {one.rows:,} rows has an answer of both"
        return
    low, high = one.interval
    what = "typed answers" if one.typed else "texts"
    yield (
        f"  agree    {100 * one.share:.1f}% of {counted(one.compared, 'row')} with an answer of "
        f"both ({100 * low:.1f}% to {100 * high:.1f}%), by their {what}"
    )


def _short(message: str) -> str:
    text = safe(" ".join(message.split()))
    return text if len(text) <= MESSAGE_CHARS else f"{text[: MESSAGE_CHARS - 3]}..."
