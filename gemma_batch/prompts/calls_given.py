"""Calls given: the calls and results in the conversation of a row, in OpenAI's form (CPU task).

An assistant's message has `tool_calls`, each with a function's name and its arguments as JSON text.
A message of the role `tool` is the result of one of them, named by the id of the call or by the
function. The older `function_call` and the role `function` are read, too. All of it comes from the
row: names are checked, and texts are made harmless when the prompt is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_batch.errors import FailureCode
from gemma_batch.prompts.template import RowProblem, check_text

RESULT_ROLES = frozenset({"tool", "function"})
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
DEEPEST = 32  # objects and lists inside each other in arguments


def given_calls(item: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The calls in a message, as {name, arguments, id}; [] without any. Raises `RowProblem`."""
    given = item.get("tool_calls")
    if given is None or (isinstance(given, list | tuple) and not given):
        # A Parquet struct has every field in every message. A field that was not given is null.
        older = item.get("function_call")
        return [] if not older else [_call({"function": older}, where)]
    if not isinstance(given, list | tuple):
        raise _bad(f"{where}: tool_calls is {type(given).__name__}, not a list")
    return [_call(one, where) for one in given]


def _call(item: Any, where: str) -> dict[str, Any]:
    function = item.get("function") if isinstance(item, dict) else None
    if not isinstance(function, dict):
        raise _bad(f"{where} has a call without a `function`")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _bad(f"{where} has a call of {name!r:.80}, which is no name of a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as err:
            raise _bad(f"{where}: the arguments of {name!r} are not valid JSON: {err}") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _bad(f"{where}: the arguments of {name!r} are no object")
    _check(arguments, f"{where}: the arguments of {name!r}")
    return {"name": name, "arguments": arguments, "id": item.get("id")}


def _check(arguments: dict[str, Any], where: str) -> None:
    waiting: list[tuple[Any, int]] = [(arguments, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > DEEPEST:
            raise _bad(f"{where} are nested deeper than {DEEPEST}")
        if isinstance(one, dict):
            if not all(isinstance(name, str) for name in one):
                raise _bad(f"{where} have a name that is no text")
            waiting += [(inner, depth + 1) for inner in (*one, *one.values())]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif isinstance(one, str):
            check_text(one)
        elif one is not None and not isinstance(one, int | float):
            raise _bad(f"{where} hold {type(one).__name__}, which JSON cannot")


def named_results(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages; each result has the name of its function, and no ids are left.

    Raises `RowProblem` for a result without a call in front of it.
    """
    found: list[dict[str, Any]] = []
    open_calls: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        if message["role"] != "tool":
            open_calls = list(message.get("calls", ()))
            found.append(_without_ids(message))
            continue
        call = _called(message, open_calls, f"message {place}")
        open_calls.remove(call)
        found.append({"role": "tool", "name": call["name"], "content": message["content"]})
    return found


def _called(
    message: Mapping[str, Any], calls: Sequence[dict[str, Any]], where: str
) -> dict[str, Any]:
    """The call that a result answers: by its id, by its function, or the first one."""
    if not calls:
        raise _bad(f"{where} is a result, and no call without a result stands before it")
    wanted, name = message.get("tool_call_id"), message.get("name")
    for call in calls:
        if (wanted is None or call["id"] == wanted) and (name is None or call["name"] == name):
            return call
    said = f"tool_call_id {wanted!r}" if wanted is not None else f"the name {name!r}"
    raise _bad(f"{where} is a result with {said}, which no call before it has")


def _without_ids(message: dict[str, Any]) -> dict[str, Any]:
    if "calls" not in message:
        return message
    calls = [{"name": one["name"], "arguments": one["arguments"]} for one in message["calls"]]
    return message | {"calls": calls}


def _bad(message: str) -> RowProblem:
    return RowProblem(FailureCode.BAD_MESSAGES, message[:500])
