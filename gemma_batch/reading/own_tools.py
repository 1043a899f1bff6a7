"""OwnTools: the functions that a row's own parameters let the model call (Ray CPU task, driver).

In OpenAI's form, today's and the older one (`functions`). Rows often bring the same functions, so
each list of them is looked at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from gemma_batch.engines.forced_calls import forced_schema
from gemma_batch.reading.own_shape import without_nulls_inside
from gemma_batch.reading.written_out import check_patterns, check_written_out
from gemma_batch.spec import NamedTool, Tools
from gemma_batch.texts import shortened

LISTS_KEPT = 256  # lists of functions that were looked at last
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")


@dataclass(frozen=True, slots=True)
class OwnTools:
    """The functions of a row, as the spec's part `tools`; `one` allows at most one call."""

    tools: Tools
    one: bool

    @property
    def form(self) -> dict[str, Any]:
        """Plain data for the reader of answers."""
        tools = self.tools.model_dump(mode="json", exclude_defaults=True)
        return {"tools": tools, **({"one_call": True} if self.one else {})}

    @property
    def structure(self) -> dict[str, Any] | None:
        """What the engine is asked for where each answer has to call; else None."""
        if not self.tools.forced:
            return None
        schema = forced_schema(self.tools)
        return {"json": json.dumps({**schema, "maxItems": 1} if self.one else schema)}


def own_tools(
    params: dict[str, Any], job: Tools | None = None
) -> tuple[OwnTools | None, dict[str, Any]]:
    """The functions that a row brings, None without any, and the row's other parameters.

    `job` are the functions of the job. Raises `ValueError` with the name of a parameter that is
    wrong.
    """
    left = {name: value for name, value in params.items() if name not in TOOL_FIELDS}
    name = "tools" if params.get("tools") else "functions"
    given = params.get(name)
    choice = _choice(params)
    if not given:
        _check_alone(choice, job)
        return None, left
    if params.get("tools") and params.get("functions"):
        raise ValueError("'functions' and 'tools' mean the same: leave one out")
    if not isinstance(given, list | tuple):
        raise ValueError(f"{name!r}: {shortened(given)} is no list")  # noqa: TRY004  (bad data)
    one = params.get("parallel_tool_calls", True)
    if not isinstance(one, bool):
        raise ValueError(  # noqa: TRY004  (bad data, not bad code)
            f"'parallel_tool_calls': {shortened(one)} is neither true nor false"
        )
    try:
        text = json.dumps([without_nulls_inside(given), choice or "auto"])
    except (RecursionError, ValueError, TypeError) as err:
        raise ValueError(f"{name!r} cannot be read: {err}") from None
    tools, fault = _looked_at(text)
    if tools is None:
        raise ValueError(f"{name!r}: {fault}")
    return OwnTools(tools, not one), left


def asks_for_tools(params: Mapping[str, Any]) -> bool:
    """Whether a row brings functions, be they right or wrong."""
    return bool(params.get("tools") or params.get("functions"))


@functools.lru_cache(maxsize=LISTS_KEPT)
def _looked_at(text: str) -> tuple[Tools | None, str]:
    definitions, choice = json.loads(text)
    try:
        tools = Tools.model_validate({"definitions": definitions, "choice": choice})
        for one in tools.functions:
            try:
                check_written_out(one["parameters"])
                check_patterns(one["parameters"])
            except ValueError as err:
                return None, f"the parameters of the function {one['name']!r}: {err}"
        return tools, ""
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
        return None, first["msg"].removeprefix("Value error, ")


def _choice(params: Mapping[str, Any]) -> Any:
    """The choice of a row as the spec writes it; None without one."""
    for name in ("tool_choice", "function_call"):
        value = without_nulls_inside(params.get(name))
        if not value:
            continue
        if value in ("auto", "none", "required"):
            return value
        if isinstance(value, dict):
            inner = value.get("function", value)
            if value.get("type", "function") == "function" and isinstance(inner, dict):
                called = inner.get("name")
                if isinstance(called, str):
                    return {"name": called}
        raise ValueError(
            f"{name!r}: {shortened(value)} is none of 'auto', 'none', 'required' and one function"
        )
    return None


def _check_alone(choice: Any, job: Tools | None) -> None:
    """A choice without functions: the same as the job's, or it asks for nothing."""
    if choice is None:
        return
    if job is None or job.rows:
        if choice not in ("auto", "none"):
            raise ValueError(f"'tool_choice' is {shortened(choice)}, and the row has no 'tools'")
        return
    wanted = {"name": job.choice.name} if isinstance(job.choice, NamedTool) else job.choice
    if choice != wanted:
        raise ValueError(
            f"'tool_choice' is {shortened(choice)}, and the functions are the job's, with "
            f"tools.choice {shortened(wanted)}"
        )
