"""Show: turns facts into the texts and tables of the command line that people read."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from gemma_batch.reporting.alerts import Alert
from gemma_batch.reporting.hours import hours_text
from gemma_batch.reporting.spending import spent_text
from gemma_batch.texts import counted, duration, failures_text, moment, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemma_batch.driver.clean import Cleaned
    from gemma_batch.ops.ray_jobs import Job
    from gemma_batch.reporting.report import Report
    from gemma_batch.reporting.status import Status

ALERTS_SHOWN = 3
INCREMENTS_SHOWN = 5


def report_text(report: Report) -> str:
    """The summary at the end of a run."""
    head = "incomplete" if report.incomplete else "complete" if report.complete else "not complete"
    share = report.cached_tokens / max(report.prompt_tokens, 1)
    cached = f" ({100 * share:.0f}% cached)"
    refused = f"; {report.refused_tokens:,} in answers that were refused, and their prompts"
    lines = [
        f"{report.name}: {head}",
        f"  rows     {report.answered:,} answered of {report.rows:,}"
        + (f"; {failures_text(report.failures)}" if report.failed else "; none failed")
        + (f"; {report.reused:,} of them reused from trials" if report.reused else ""),
        f"  tokens   {report.prompt_tokens:,} in{cached if report.cached_tokens else ''}, "
        f"{report.completion_tokens:,} out{refused if report.refused_tokens else ''}",
    ]
    if report.run_rows:
        first = (
            f", first commit after {duration(report.first_commit)}" if report.first_commit else ""
        )
        lines.append(
            f"  speed    {report.tokens_per_second:,.0f} output tokens/s, "
            f"{report.rows_per_second:,.1f} rows/s over {duration(report.seconds)} with start-up "
            f"({report.steady_rows_per_second:,.1f} rows/s once running{first})"
        )
        lines += _account_lines(report)
    elif report.complete:
        lines.append("  speed    nothing was left to do")
    lines += _hours_lines(report)
    if report.budget:
        lines.append(budget_line(report))
    for alert in report.alerts[-ALERTS_SHOWN:]:
        lines.append(f"  alert    {alert_text(alert)}")
    for node in report.nodes:
        lines.append(f"  node     {node_text(node)}")
    if len(report.routes) > 1:
        for name, route in report.routes.items():
            lines.append(f"  route    {name}: {route['answered']:,} answered by {route['model']}")
    lines += increment_lines(report.increments)
    results = f"{report.output}/results"
    lines.append(f"  results  {results}/")
    if report.failed:
        lines.append(f"  errors   {report.output}/errors/")
    lines += [
        f"  DuckDB   duckdb -c \"SELECT * FROM '{results}/*.parquet' LIMIT 5\"",
        f"  pandas   python -c \"import pandas as pd; print(pd.read_parquet('{results}').head())\"",
    ]
    return "\n".join(lines)


def _hours_lines(found: Report | Status) -> list[str]:
    hours = hours_text(found.device_hours, found.device_kinds)
    if found.cost is not None:
        return [f"  cost     {found.cost:,.2f} for {hours} in all runs"]
    return [f"  hours    {hours} in all runs"] if found.device_hours else []


def _account_lines(report: Report) -> list[str]:
    lines = []
    if report.engine_time:
        parts = [f"{name} {100 * share:.0f}%" for name, share in report.engine_time.items()]
        limit = (
            f"; {100 * report.limit_share:.1f}% of the hardware's limit once ready"
            if report.limit_share is not None
            else ""
        )
        lines.append(f"  engines  {', '.join(parts)}{limit}")
    if report.predicted and report.run_rows + report.reused == report.rows:
        seconds = report.predicted["seconds"]
        lines.append(f"  planned  {duration(seconds)} at most, took {duration(report.seconds)}")
    return lines


def increment_lines(increments: Sequence[Mapping[str, Any]]) -> list[str]:
    """The newest increments of an input that grows, and how many there are."""
    if not increments:
        return []
    lines = [f"  grown    {counted(len(increments) - 1, 'time')}, by new files:"]
    for one in increments[1:][-INCREMENTS_SHOWN:]:
        failed = f", {one['failed']:,} failed" if one["failed"] else ""
        lines.append(
            f"           {one['number']}: {one['created'][:10]}, {counted(one['files'], 'file')}, "
            f"{one['answered']:,} of {counted(one['rows'], 'row')} answered{failed}"
        )
    return lines


def budget_line(found: Report | Status) -> str:
    """What is spent of the budget, as a line."""
    text = spent_text(found.budget, found.device_hours, found.cost)
    ended = "; no more units were begun" if found.incomplete else ""
    return f"  budget   {text} spent, all runs together{ended}"


def alert_text(alert: Mapping[str, Any]) -> str:
    """One alert in words: its time, its value and its threshold."""
    return f"{moment(alert['time'])} UTC: {Alert(**alert).text}"


def node_text(node: Mapping[str, Any]) -> str:
    """One node with trouble in words."""
    left = ", left alone at the end" if node["left_alone"] else ""
    times = f"{node['failures']} failures" if node["failures"] > 1 else "failed once"
    return f"{node['node']}: {times}{left}: {node['cause']}"


def status_text(status: Status) -> str:
    """The state of an output in a few lines."""
    share = 100 * status.committed / status.rows if status.rows else 100.0
    state = {
        "complete": "complete",
        "held": f"a driver works on it ({status.holder}), or died without a word",
        "stopped": "stopped by its budget; raise policy.budget and run it again to go on"
        if status.incomplete
        else "stopped; run it again to go on",
    }[status.state]
    lines = [
        f"{status.name}: {state}",
        f"  rows     {status.committed:,} of {status.rows:,} committed ({share:.1f}%)",
        f"  units    {status.units_committed:,} of {status.units:,}",
    ]
    if status.rows_per_second:
        left = f", {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
        last = f"; last commit {status.last_commit} UTC" if status.last_commit else ""
        lines.append(
            f"  speed    {status.rows_per_second:,.1f} rows/s, {status.tokens_per_second:,.0f} "
            f"output tokens/s{left}{last}"
        )
    lines += _hours_lines(status)
    if status.budget:
        lines.append(budget_line(status))
    for alert in status.alerts[-ALERTS_SHOWN:]:
        lines.append(f"  alert    {alert_text(alert)}")
    lines += increment_lines(status.increments)
    if status.failed:
        lines.append(f"  failed   {failures_text(status.failures)}")
    if status.open_retry:
        lines.append(
            f"  retry    {status.open_retry['generation']} is open: "
            f"{status.open_retry['rows']:,} rows; run `gemma-batch retry` to go on"
        )
    return "\n".join(lines)


def finished_text(job: Job, report: Report) -> str:
    """What `submit` says of a job that has nothing left to do."""
    failed = f", {failures_text(report.failures)}" if report.failed else ""
    return (
        f"{job.id} has finished already: {report.answered:,} of {report.rows:,} rows answered"
        f"{failed}; nothing was started; `gemma-batch report {report.output}` shows it"
    )


def cleaned_text(cleaned: Cleaned) -> str:
    """What `clean` removed, or would remove."""
    total = size_text(sum(one.bytes for one in cleaned.files))
    done = "removed" if cleaned.removed else "not needed any more"
    lines = [f"{cleaned.output}: {len(cleaned.files):,} file(s) {done}, {total}"]
    lines += [f"  {size_text(one.bytes):>10}  {one.kind}  {one.key}" for one in cleaned.files]
    tries = [one for one in cleaned.kept if one.kind == "try"]
    if sorted_copies := [one for one in cleaned.kept if one.kind != "try"]:
        size = size_text(sum(one.bytes for one in sorted_copies))
        lines.append(
            f"kept: {len(sorted_copies):,} sorted copies of the input ({size}), which a retry of "
            "the failed rows reads; --all-copies takes them too, and ends all retries"
        )
    if tries:
        names = {one.key.split("/")[2] for one in tries}
        size = size_text(sum(one.bytes for one in tries))
        lines.append(
            f"kept: the answers of {counted(len(names), 'trial')} ({size}): a new run of the job "
            "does not ask their rows again; --tries takes them too"
        )
    if not cleaned.removed:
        if cleaned.holder:
            lines.append(
                f"a driver holds the lease ({cleaned.holder}); nothing is removed while it lives"
            )
        if cleaned.files:
            lines.append("nothing was removed: repeat the command with --yes")
    return "\n".join(lines)


def models_rows() -> list[dict[str, Any]]:
    """The catalog as plain data. Weights are those of the language model alone, in GiB at bf16."""
    from gemma_batch.family.catalog import load_catalog
    from gemma_batch.family.memory import weights_bytes

    return [
        {
            "id": card.id,
            "parameters": card.params,
            "context": card.context,
            "weights_gib_bf16": round(weights_bytes(card, text_only=True) / 2**30, 1),
            "modalities": list(card.modalities),
            "licence": card.licence,
            "gated": card.gated,
        }
        for card in load_catalog().values()
        if card.variant_of is None
    ]


def print_models(rows: list[dict[str, Any]]) -> None:
    """Print the catalog on stderr, as a table that fits 80 columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("id", "params", "context", "GiB bf16", "inputs", "licence"):
        right = name in {"params", "context", "GiB bf16"}
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["id"],
            f"{row['parameters'] / 1e9:.2f}B",
            f"{row['context'] // 1024}K",
            f"{row['weights_gib_bf16']:.1f}",
            " ".join(modality[0].upper() for modality in row["modalities"]),
            row["licence"] + (" (gated)" if row["gated"] else ""),
        )
    console = Console(stderr=True)
    console.print(table)
    console.print(
        "inputs: Text, Image, Video, Audio; a local or s3:// folder works as well as a name",
        style="dim",
        highlight=False,
    )


def jobs_text(jobs: Sequence[Job]) -> str:
    """Submitted jobs, two lines each. Ids and paths are not cut, because people copy them."""
    if not jobs:
        return "no jobs of this package on this cluster"
    lines = []
    now = datetime.datetime.now(datetime.UTC).timestamp()
    for job in jobs:
        begun = datetime.datetime.fromtimestamp(job.started or now, datetime.UTC)
        took = duration((job.ended or now) - (job.started or now))
        rows = f", {job.rows:,} rows" if job.rows is not None else ""
        code = f" with exit code {job.exit_code}" if job.exit_code else ""
        lines.append(f"{job.id}  {job.status.lower()}{code}")
        lines.append(f"  {job.output}  since {begun:%Y-%m-%d %H:%M} UTC, {took}{rows}")
    return "\n".join(lines)
