"""Show plan: the facts of the command `plan`, as plain data and as text for people."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from gemma_batch.cli.plan_lines import estimate_lines, exit_lines, placement_lines
from gemma_batch.texts import counted, duration, failures_text

if TYPE_CHECKING:
    from gemma_batch.committing.outlook import Outlook
    from gemma_batch.planning.route_plan import RoutePlan
    from gemma_batch.planning.sample import RouteSample
    from gemma_batch.spec import JobSpec

PREVIEW_CHARS = 1200


def plan_facts(
    spec: JobSpec,
    *,
    gpu: str | None,
    gpus: int,
    price: float | None = None,
    output_tokens: float | None = None,
) -> dict[str, Any]:
    """All facts that `plan` prints, as plain data. Raises `UserError` like `make_plan`.

    `gpu` is the name of a GPU, "cpu" for the CPU of this machine, or None. `price` is per GPU and
    hour. `output_tokens` is the mean length of an answer for the estimate (None: the longest
    answer).
    """
    from gemma_batch.cli.plan_hardware import hardware_notes, named_hardware, on_this_cpu
    from gemma_batch.committing.outlook import known_inputs, look
    from gemma_batch.driver.beforehand import hardware_here, would_refuse
    from gemma_batch.planning import foresight
    from gemma_batch.planning.absolute import absolute
    from gemma_batch.planning.estimate import estimate_routes, sort_facts, totals
    from gemma_batch.planning.plan import check_not_empty, make_plan, rows_by_route, units_by_route
    from gemma_batch.planning.pool import gpu_wish, make_pool
    from gemma_batch.planning.preview import first_prompt
    from gemma_batch.planning.sample import sample_facts, sample_routes
    from gemma_batch.planning.shape_cost import shape_facts
    from gemma_batch.reporting.forecast import exit_forecast

    hardware = named_hardware(gpu or spec.resources.gpu, gpus)
    known = known_inputs(absolute(spec).output.path)
    plan = make_plan(spec, need_files=False, known=known)
    here = hardware_here(plan.routes)
    wanted = gpu_wish(plan.routes, 0).wanted
    if hardware is None and not wanted:
        hardware = on_this_cpu()
    outlook = look(
        plan.spec.output.path,
        plan.fingerprint(),
        plan.unknown,
        touched=plan.survey.touched,
        grows=spec.input.grow,
    )
    refused = would_refuse(
        plan, here, engines=outlook.state != "complete" or bool(outlook.new_files)
    )
    samples = sample_routes(plan)
    foresight.check_usable(samples, spec.policy)
    units, estimates, said = [], None, list[str]()
    if hardware is not None:
        plan = plan.placed(hardware, {name: one.mean_tokens for name, one in samples.items()})
        replicas = max(make_pool(route, hardware).most for route in plan.routes)
        units = plan.units(replicas, said.append)
        check_not_empty(units)
    by_route = rows_by_route(units)
    forecast = exit_forecast(samples, spec.policy, sum(by_route.values()) or None)
    answer = output_tokens or spec.sampling.max_tokens
    if hardware is not None:
        estimates = totals(
            estimate_routes(
                plan.routes,
                samples,
                by_route,
                hardware,
                output_tokens=answer,
                price=price,
                units=units_by_route(units),
            )
        )
    first = first_prompt(plan)
    shape = shape_facts(plan, first["text"])
    return {
        "name": spec.name,
        "input": {
            "files": len(plan.survey.inputs),
            "format": plan.survey.shards[0].format,
            "bytes": sum(shard.size for shard in plan.survey.inputs),
            "columns": {field.name: str(field.type) for field in plan.survey.schema},
            "reads": list(plan.survey.columns),
            "left_out": [dataclasses.asdict(one) for one in plan.survey.left_out],
        },
        "routes": [
            {
                **_route_facts(route, by_route, samples[route.route.name], answer),
                "sample": sample_facts(samples[route.route.name]),
                "sort": sort_facts(
                    route,
                    samples[route.route.name],
                    by_route.get(route.route.name, 0),
                    hardware,
                    output_tokens=answer,
                ),
            }
            for route in plan.routes
        ],
        "estimate": estimates,
        "longest_answers": output_tokens is None,
        "units": len(units),
        "rows": sum(by_route.values()) or None,
        "output": spec.output.path,
        "output_state": dataclasses.asdict(outlook),
        "fingerprint": plan.fingerprint().digest,
        "notes": [
            *plan.notes,
            *said,
            *_output_notes(outlook),
            *([shape["hint"]] if shape and shape["hint"] else []),
            *foresight.warnings(samples, spec.policy, sum(by_route.values()) or None),
            *foresight.over_budget(spec.policy.budget, estimates),
            *hardware_notes(gpu, hardware, here, wanted=wanted),
        ],
        "would_refuse": refused,
        "exit_code": forecast and dataclasses.asdict(forecast),
        "answer": shape,
        "prompt": first,
    }


def _route_facts(
    route: RoutePlan, rows: dict[str, int], sample: RouteSample, output_tokens: float
) -> dict[str, Any]:
    from gemma_batch.engines.base import engine_class
    from gemma_batch.planning.at_once import at_once

    placement = route.placement
    computes = engine_class(route.resources.engine).computes
    facts: dict[str, Any] = {
        "name": route.route.name,
        "when": route.route.when,
        "model": route.route.model,
        "parameters": route.card.params,
        "licence": route.card.licence,
        "quantization": route.card.quantization,
        "max_model_len": route.max_model_len,
        "rows": rows.get(route.route.name),
        "computes": computes,
    }
    if placement is not None:
        facts["placement"] = {
            "tensor_parallel": placement.tensor_parallel,
            "engines_per_gpu": placement.engines_per_gpu,
            "precision": placement.precision if computes else None,
            "dtype": placement.dtype if computes else None,
            "max_num_seqs": placement.max_num_seqs,
            "max_num_batched_tokens": placement.max_num_batched_tokens,
            "kv_gib": round(placement.kv_gib, 1) if computes else None,
            "concurrency": placement.concurrency if computes else None,
            "at_once": at_once(route, sample, output_tokens),
            "output_tokens": output_tokens,
            "reason": placement.reason,
        }
    return facts


def print_plan(facts: dict[str, Any]) -> None:
    """Print the plan for people, on stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    given = facts["input"]
    rows = "not counted"
    if facts["rows"]:
        rows = f"{counted(facts['rows'], 'row')} in {counted(facts['units'], 'unit')}"
    console.print(f"{facts['name']}: nothing was started", style="bold")
    files = counted(given["files"], f"{given['format']} file")
    console.print(f"  input    {files}, {_size(given['bytes'])}")
    console.print(f"  columns  {', '.join(f'{k} ({v})' for k, v in given['columns'].items())}")
    console.print(f"  reads    {', '.join(given['reads'])}")
    console.print(f"  work     {_work_line(rows, facts['output_state'])}")
    for route in facts["routes"]:
        when = f" when {route['when']}" if route["when"] else ""
        count = f", {counted(route['rows'], 'row')}" if route["rows"] is not None else ""
        console.print(f"  route    {route['name']}: {route['model']}{when}{count}")
        for line in placement_lines(route):
            console.print(f"           {line}")
        for line in _sample_lines(route["sample"]):
            console.print(f"           {line}")
        if (sort := route["sort"]) and (sort["planned"] or _is_near(route)):
            console.print(f"           {_sort_line(sort)}")
    for line in _shape_lines(facts["answer"]):
        console.print(line)
    for line in [*estimate_lines(facts), *exit_lines(facts)]:
        console.print(line)
    console.print(f"  output   {facts['output']}: {_output_line(facts['output_state'])}")
    for reason in facts["would_refuse"]:
        console.print(f"  warning  run would refuse here: {reason}", style="yellow")
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


def _work_line(rows: str, state: dict[str, Any]) -> str:
    """What a run would answer, for people."""
    if not state["new_files"]:
        return rows
    files = counted(state["new_files"], "new file")
    return f"{files}, {rows}; {state['rows_done']:,} answered already"


def _output_line(state: dict[str, Any]) -> str:
    """What a start finds in the output, for people."""
    if state["state"] == "new":
        return "new"
    if state["state"] == "unknown":
        return "not looked at"
    rows, units = counted(state["rows"], "row"), counted(state["units"], "unit")
    if state["new_files"]:
        left = state["rows"] - state["rows_done"]
        more = f", and goes on with {counted(left, 'row')} of earlier files" if left else ""
        return f"a run adds the new files to {rows} in {units}{more}"
    if state["state"] == "complete":
        return f"complete, {rows} in {units} are committed: a run writes the report again, no more"
    return (
        f"a run goes on where another stopped: {state['rows_done']:,} of {rows} are committed "
        f"({state['units_done']:,} of {units})"
    )


def _output_notes(outlook: Outlook) -> list[str]:
    notes = []
    if outlook.why is not None:
        notes.append(
            f"the output could not be looked at from this machine: {outlook.why}. The start of the "
            "run looks at it"
        )
    if outlook.holder is not None:
        notes.append(
            f"the output is held by {outlook.holder}: while that driver lives, no other can start"
        )
    if outlook.open_retry:
        notes.append(
            f"a retry of this output is not finished ({outlook.open_retry:,} rows are left): "
            "`gemma-batch retry` goes on with it"
        )
    return notes


def _sample_lines(sample: dict[str, Any]) -> list[str]:
    if not sample["rows"]:
        return ["no row of the sample takes this route"]
    about = "" if sample["exact"] else "about (4 characters each, without the tokenizer) "
    lines = [
        f"prompts of {about}{sample['mean']:,.0f} tokens on average in "
        f"{counted(sample['rows'], 'sampled row')} (median {sample['p50']:,}, "
        f"95% up to {sample['p95']:,}, longest {sample['max']:,})"
    ]
    if sample["failures"]:
        share = 100 * sum(sample["failures"].values()) / sample["rows"]
        lines.append(f"{share:.1f}% of them will fail: {failures_text(sample['failures'])}")
        lines += [
            f"  {one['code']} ({100 * one['share']:.1f}%), first: {one['example']}"
            for one in sample["foreseen"]
        ]
    if sample["shared"] >= 0.05:
        sorting = f", {100 * sample['gain']:.0f}% thanks to ordering" if sample["gain"] > 0 else ""
        lines.append(
            f"{100 * sample['shared']:.0f}% of prompt tokens or more can come from the prefix "
            f"cache{sorting}"
        )
    if sample["doubled"]:
        lines.append(f"note: {sample['doubled']}")
    if sample["hint"]:
        lines.append(f"hint: {sample['hint']}")
    return lines


def _shape_lines(shape: dict[str, Any] | None) -> list[str]:
    """The columns of an answer's shape and what the shape costs, for people."""
    if shape is None:
        return []
    texts = [f"{name}: {kind}" for name, kind in shape["columns"].items()]
    for name, route in shape["routes"].items():
        costs = []
        if route["smallest_tokens"] is not None:
            costs.append(f"the smallest answer has about {route['smallest_tokens']:,} tokens")
        if route["compile_seconds"] is not None:
            costs.append(
                f"an engine compiles the shape once, in {route['compile_seconds']:.2f} s here"
            )
        if costs:
            texts.append(f"{name}: {', '.join(costs)}")
    return [f"  {'answer' if n == 0 else '':8} {text}" for n, text in enumerate(texts)]


def _is_near(route: dict[str, Any]) -> bool:
    """Whether a sort that will not be done is worth a word: it would save prompts and time."""
    sort = route["sort"]
    saves = sort["whole"] - sort["window"] >= 0.01 and sort["saved_seconds"] >= 1
    return bool(saves and route["computes"])


def _sort_line(sort: dict[str, Any]) -> str:
    verdict = "it will be done" if sort["planned"] else "it will not be done"
    return (
        f"sorted as a whole first (resources.sort), {100 * sort['whole']:.0f}% instead of "
        f"{100 * sort['window']:.0f}%: saves {duration(sort['saved_seconds'])} and takes "
        f"{duration(sort['sort_seconds'])}, {verdict}"
    )


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
