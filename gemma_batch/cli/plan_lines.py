"""Lines of the plan for people: where engines are placed, how long they take, the exit code."""

from __future__ import annotations

from typing import Any

from gemma_batch.texts import counted, duration


def placement_lines(route: dict[str, Any]) -> list[str]:
    """How an engine of the route is placed and how much it does at once; [] without a placement.

    A dry run has no weights, no KV cache and no limit that a model sets.
    """
    placement = route.get("placement")
    if placement is None:
        return []
    if not route["computes"]:
        return [placement["reason"]]
    parallel = placement["tensor_parallel"]
    lines = [
        f"tensor parallel {parallel}, {_numbers(route)}, {placement['max_num_batched_tokens']:,} "
        f"tokens per step, at most {route['max_model_len']:,} tokens of prompt and answer",
        placement["reason"],
    ]
    if placement["at_once"] is not None:
        mean, answer = route["sample"]["mean"], placement["output_tokens"]
        lines.append(
            f"An engine works on {counted(placement['at_once'], 'request')} at once, of "
            f"{mean:,.0f} tokens with an answer of {answer:,.0f}."
        )
    return lines


def _numbers(route: dict[str, Any]) -> str:
    """The precision of a route's weights, for people."""
    if route["quantization"]:
        return f"weights of the checkpoint ({route['quantization']})"
    return f"weights in {route['placement']['precision']}"


def estimate_lines(facts: dict[str, Any]) -> list[str]:
    """The time of the run, with the start of engines apart; [] without an estimate."""
    estimate = facts["estimate"]
    if not estimate or not estimate["routes"]:
        return []
    worst = "at most, with the longest answers: " if facts["longest_answers"] else ""
    gpus = f", {_short(estimate['gpu_hours'])} GPU-hours" if estimate["gpu_hours"] else ""
    cost = f", cost {estimate['cost']:,.2f}" if estimate["cost"] is not None else ""
    lines = [
        f"  estimate {worst}{duration(estimate['seconds'])} "
        f"({duration(estimate['start_seconds'])} until engines answer, "
        f"{duration(estimate['work_seconds'])} of work){gpus}{cost}; good to a factor of 2"
    ]
    for one in estimate["routes"]:
        limit = ""
        if one["limit_rows_per_second"]:
            share = 100 * one["rows_per_second"] / one["limit_rows_per_second"]
            limit = f", {share:.0f}% of the hardware's limit ({one['bound']})"
        lines.append(
            f"           {one['route']}: {counted(one['engines'], 'engine')}, start "
            f"{duration(one['start_seconds'])}, work {duration(one['work_seconds'])} at "
            f"{_short(one['rows_per_second'])} rows/s{limit}"
        )
    return lines


def _short(number: float) -> str:
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def exit_lines(facts: dict[str, Any]) -> list[str]:
    """The exit code that the failures of the sample would give; [] without a sample."""
    from gemma_batch.reporting.forecast import ExitForecast

    if facts["exit_code"] is None:
        return []
    lines = ExitForecast(**facts["exit_code"]).lines
    return [f"  {'exit' if n == 0 else '':8} {line}" for n, line in enumerate(lines)]
