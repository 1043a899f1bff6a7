"""What people read: the texts and tables of the command line. Facts in, words out."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from gemma_batch.run.alerts import Alert
from gemma_batch.run.progress import duration, failures_text, moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemma_batch.ops.ray_jobs import Job
    from gemma_batch.run.plan import RoutePlan
    from gemma_batch.run.report import Report
    from gemma_batch.run.status import Status
    from gemma_batch.spec import JobSpec

USUAL_CPUS_PER_GPU = 8  # of cloud instances, where no cluster was looked at
PREVIEW_CHARS = 1200
ALERTS_SHOWN = 3


def report_text(report: Report) -> str:
    """The summary at the end of a run."""
    head = "complete" if report.complete else "not complete"
    share = report.cached_tokens / max(report.prompt_tokens, 1)
    cached = f" ({100 * share:.0f}% cached)"
    lines = [
        f"{report.name}: {head}",
        f"  rows     {report.answered:,} answered of {report.rows:,}"
        + (f"; {failures_text(report.failures)}" if report.failed else "; none failed"),
        f"  tokens   {report.prompt_tokens:,} in{cached if report.cached_tokens else ''}, "
        f"{report.completion_tokens:,} out",
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
    if report.cost is not None:
        lines.append(
            f"  cost     {report.cost:,.2f} for {report.device_hours:,.2f} hours of GPUs "
            "(of engines, where there are none), all runs together"
        )
    for alert in report.alerts[-ALERTS_SHOWN:]:
        lines.append(f"  alert    {alert_text(alert)}")
    if len(report.routes) > 1:
        for name, route in report.routes.items():
            lines.append(f"  route    {name}: {route['answered']:,} answered by {route['model']}")
    results = f"{report.output}/results"
    lines.append(f"  results  {results}/")
    if report.failed:
        lines.append(f"  errors   {report.output}/errors/")
    lines += [
        f"  DuckDB   duckdb -c \"SELECT * FROM '{results}/*.parquet' LIMIT 5\"",
        f"  pandas   python -c \"import pandas as pd; print(pd.read_parquet('{results}').head())\"",
    ]
    return "\n".join(lines)


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
    if report.predicted and report.run_rows == report.rows:
        seconds = report.predicted["seconds"]
        lines.append(f"  planned  {duration(seconds)} at most, took {duration(report.seconds)}")
    return lines


def alert_text(alert: Mapping[str, Any]) -> str:
    """One event: when, what, and the rule."""
    return f"{moment(alert['time'])} UTC: {Alert(**alert).text}"


def status_text(status: Status) -> str:
    """A few lines on how an output stands."""
    share = 100 * status.committed / status.rows if status.rows else 100.0
    state = {
        "complete": "complete",
        "held": f"a driver works on it ({status.holder}), or died without a word",
        "stopped": "stopped; run it again to go on",
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
    if status.cost is not None:
        lines.append(f"  cost     {status.cost:,.2f} so far")
    for alert in status.alerts[-ALERTS_SHOWN:]:
        lines.append(f"  alert    {alert_text(alert)}")
    if status.failed:
        lines.append(f"  failed   {failures_text(status.failures)}")
    if status.open_retry:
        lines.append(
            f"  retry    {status.open_retry['generation']} is open: "
            f"{status.open_retry['rows']:,} rows; run `gemma-batch retry` to go on"
        )
    return "\n".join(lines)


def models_rows() -> list[dict[str, Any]]:
    """The catalog as plain rows. Weights are of the language model alone, in GiB at bf16."""
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
    """The catalog as a table on stderr that fits 80 columns."""
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
    """Submitted jobs, two lines each: ids and paths are there to be copied, so nothing is cut."""
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


def plan_facts(
    spec: JobSpec,
    *,
    gpu: str | None,
    gpus: int,
    price: float | None = None,
    output_tokens: float | None = None,
) -> dict[str, Any]:
    """Everything `plan` prints, as plain data. Raises `UserError` as `make_plan` does.

    `price` is per GPU and hour, `output_tokens` the mean answer to reckon with (None: the longest).
    """
    from gemma_batch.family.gpus import find_gpu
    from gemma_batch.run.estimate import estimate_routes, sort_facts, totals
    from gemma_batch.run.plan import Hardware, make_plan, rows_by_route
    from gemma_batch.run.pool import make_pool
    from gemma_batch.run.preview import first_prompt
    from gemma_batch.run.sample import sample_facts, sample_routes

    hardware = None
    if gpu or spec.resources.gpu:
        hardware = Hardware(
            gpu=find_gpu(gpu or spec.resources.gpu or ""),
            gpus=gpus,
            gpus_per_node=min(gpus, 8),
            cpus=gpus * USUAL_CPUS_PER_GPU,
        )
    elif spec.resources.device == "cpu" or spec.resources.engine == "echo":
        hardware = Hardware(gpu=None)
    plan = make_plan(spec, need_files=False)
    samples = sample_routes(plan)
    units, estimates = [], None
    if hardware is not None:
        plan = plan.placed(hardware, {name: one.mean_tokens for name, one in samples.items()})
        units = plan.units(max(make_pool(route, hardware).most for route in plan.routes))
    by_route = rows_by_route(units)
    if hardware is not None:
        answer = output_tokens or spec.sampling.max_tokens
        estimates = totals(
            estimate_routes(
                plan.routes, samples, by_route, hardware, output_tokens=answer, price=price
            )
        )
    return {
        "name": spec.name,
        "input": {
            "files": len(plan.survey.shards),
            "format": plan.survey.shards[0].format,
            "bytes": sum(shard.size for shard in plan.survey.shards),
            "columns": {field.name: str(field.type) for field in plan.survey.schema},
            "reads": list(plan.survey.columns),
        },
        "routes": [
            {
                **_route_facts(route, by_route),
                "sample": sample_facts(samples[route.route.name]),
                "sort": sort_facts(
                    route,
                    samples[route.route.name],
                    by_route.get(route.route.name, 0),
                    hardware,
                    output_tokens=output_tokens or spec.sampling.max_tokens,
                ),
            }
            for route in plan.routes
        ],
        "estimate": estimates,
        "longest_answers": output_tokens is None,
        "units": len(units),
        "rows": sum(by_route.values()) or None,
        "output": spec.output.path,
        "fingerprint": plan.fingerprint().digest,
        "notes": [
            *plan.notes,
            *(
                []
                if hardware
                else [
                    "no hardware was named: add --gpu (for example --gpu H100-80) to see the "
                    "placement and the units"
                ]
            ),
        ],
        "prompt": first_prompt(plan),
    }


def _route_facts(route: RoutePlan, rows: dict[str, int]) -> dict[str, Any]:
    placement = route.placement
    facts: dict[str, Any] = {
        "name": route.route.name,
        "when": route.route.when,
        "model": route.route.model,
        "parameters": route.card.params,
        "licence": route.card.licence,
        "max_model_len": route.max_model_len,
        "rows": rows.get(route.route.name),
    }
    if placement is not None:
        facts["placement"] = {
            "tensor_parallel": placement.tensor_parallel,
            "engines_per_gpu": placement.engines_per_gpu,
            "dtype": placement.dtype,
            "max_num_seqs": placement.max_num_seqs,
            "max_num_batched_tokens": placement.max_num_batched_tokens,
            "kv_gib": round(placement.kv_gib, 1),
            "concurrency": placement.concurrency,
            "reason": placement.reason,
        }
    return facts


def print_plan(facts: dict[str, Any]) -> None:
    """The plan, for people, on stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    given = facts["input"]
    rows = f"{facts['rows']:,} rows in {facts['units']:,} units" if facts["rows"] else "not counted"
    console.print(f"{facts['name']}: nothing was started", style="bold")
    console.print(f"  input    {given['files']:,} {given['format']} files, {_size(given['bytes'])}")
    console.print(f"  columns  {', '.join(f'{k} ({v})' for k, v in given['columns'].items())}")
    console.print(f"  reads    {', '.join(given['reads'])}")
    console.print(f"  work     {rows}")
    for route in facts["routes"]:
        when = f" when {route['when']}" if route["when"] else ""
        count = f", {route['rows']:,} rows" if route["rows"] is not None else ""
        console.print(f"  route    {route['name']}: {route['model']}{when}{count}")
        if placement := route.get("placement"):
            console.print(
                f"           tensor parallel {placement['tensor_parallel']}, "
                f"{placement['dtype']}, up to {placement['max_num_seqs']} sequences of "
                f"{route['max_model_len']:,} tokens, {placement['max_num_batched_tokens']:,} "
                "tokens per step"
            )
            console.print(f"           {placement['reason']}")
        for line in _sample_lines(route["sample"]):
            console.print(f"           {line}")
        if (sort := route["sort"]) and sort["whole"] - sort["window"] >= 0.01:
            console.print(f"           {_sort_line(sort)}")
    for line in _estimate_lines(facts):
        console.print(line)
    console.print(f"  output   {facts['output']}")
    for note in facts["notes"]:
        console.print(f"  note     {note}", style="yellow")
    prompt = facts["prompt"]
    if prompt["text"] is not None:
        tokens = f"{prompt['tokens']:,} tokens" if prompt["tokens"] else "tokens not counted"
        console.print(f"  first prompt ({tokens}):", style="bold")
        text = prompt["text"]
        shown = text if len(text) <= PREVIEW_CHARS else text[:PREVIEW_CHARS] + " ..."
        for line in shown.splitlines():
            console.print(f"    {line}", style="cyan")
    if prompt["note"]:
        console.print(f"  note     {prompt['note']}", style="yellow")


def _sample_lines(sample: dict[str, Any]) -> list[str]:
    if not sample["rows"]:
        return ["no row of the sample takes this route"]
    about = "" if sample["exact"] else "about (4 characters each, without the tokenizer) "
    lines = [
        f"prompts of {about}{sample['mean']:,.0f} tokens on average in {sample['rows']:,} sampled "
        f"rows (median {sample['p50']:,}, 95% up to {sample['p95']:,}, longest {sample['max']:,})"
    ]
    if sample["failures"]:
        share = 100 * sum(sample["failures"].values()) / sample["rows"]
        lines.append(f"{share:.1f}% of them will fail: {failures_text(sample['failures'])}")
    if sample["shared"] >= 0.05:
        sorting = f", {100 * sample['gain']:.0f}% thanks to ordering" if sample["gain"] > 0 else ""
        lines.append(
            f"{100 * sample['shared']:.0f}% of prompt tokens or more can come from the prefix "
            f"cache{sorting}"
        )
    if sample["hint"]:
        lines.append(f"hint: {sample['hint']}")
    return lines


def _sort_line(sort: dict[str, Any]) -> str:
    verdict = "it will be done" if sort["planned"] else "it will not be done"
    return (
        f"sorted as a whole first (resources.sort), {100 * sort['whole']:.0f}% instead of "
        f"{100 * sort['window']:.0f}%: saves {duration(sort['saved_seconds'])} and takes "
        f"{duration(sort['sort_seconds'])}, {verdict}"
    )


def _estimate_lines(facts: dict[str, Any]) -> list[str]:
    estimate = facts["estimate"]
    if not estimate or not estimate["routes"]:
        return []
    worst = "at most, with the longest answers: " if facts["longest_answers"] else ""
    gpus = f", {estimate['gpu_hours']:,.1f} GPU-hours" if estimate["gpu_hours"] else ""
    cost = f", cost {estimate['cost']:,.2f}" if estimate["cost"] is not None else ""
    lines = [
        f"  estimate {worst}{duration(estimate['seconds'])}{gpus}{cost}; good to a factor of 2"
    ]
    for one in estimate["routes"]:
        limit = ""
        if one["limit_rows_per_second"]:
            share = 100 * one["rows_per_second"] / one["limit_rows_per_second"]
            limit = f", {share:.0f}% of the hardware's limit ({one['bound']})"
        lines.append(
            f"           {one['route']}: {one['engines']} engines, "
            f"{one['rows_per_second']:,.1f} rows/s{limit}"
        )
    return lines


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
