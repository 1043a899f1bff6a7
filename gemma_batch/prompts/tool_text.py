"""Tool text: functions, calls and results as text, for models whose chat template knows none.

Gemma 1 to 3 were not trained on functions, and have no control tokens for them. Google's documents
show a prompt that makes them write calls (ai.google.dev/gemma/docs/capabilities/function-calling);
this prompt follows it. The functions and the wanted format stand before the first question. A
call is written as the model is asked to write calls, and a result stands in a block of the kind
`tool_output` in a turn of the user. This module knows only strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Function = Mapping[str, Any]  # name, description, parameters
Call = Mapping[str, Any]  # name, arguments
JSON_FORM = '[{"name": function name, "parameters": dictionary of argument name and its value}]'
PYTHON_FORM = (
    "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]"
)
FORCED = f"Answer with nothing but calls of functions, in the format of {JSON_FORM}"
NONE = "Do not call a function in this answer: answer with text."
# FunctionGemma was trained with this sentence, and calls functions only behind it.
FUNCTION_GEMMA = "You are a model that can do function calling with the following functions"


def tool_prompt(functions: Sequence[Function], choice: str) -> str:
    """The text that shows functions to a model whose chat template does not.

    `choice` is "auto", "none" or "required".
    """
    shown = json.dumps([dict(one) for one in functions], ensure_ascii=False, indent=1)
    return f"You have access to functions. {_wish(functions, choice)}\n\n{shown}"


def beside_template(form: str, choice: str) -> str:
    """What a template that shows functions does not say: "" or sentences for the system turn.

    `form` is the format of calls, `ChatTemplate.calls`.
    """
    said = {"required": FORCED, "none": NONE}.get(choice, "")
    if form == "functiongemma":
        return f"{said}\n{FUNCTION_GEMMA}" if said else FUNCTION_GEMMA
    return said


def _wish(functions: Sequence[Function], choice: str) -> str:
    if choice == "required":
        return FORCED
    if choice == "none":
        return NONE
    form = PYTHON_FORM if _pythonic(functions) else JSON_FORM
    return (
        "If you decide to invoke any of the function(s), you MUST put it in the format of\n"
        f"{form}\n"
        "You SHOULD NOT include any other text in the response if you call a function"
    )


def _pythonic(functions: Sequence[Function]) -> bool:
    """Whether Python can write calls of these functions."""
    names = [one["name"] for one in functions]
    names += [name for one in functions for name in one["parameters"].get("properties", {})]
    return all(str(name).isidentifier() for name in names)


def calls_text(calls: Sequence[Call]) -> str:
    """Calls of an earlier turn, in the format that the prompt asks for."""
    plain = all(
        name.isidentifier() for call in calls for name in (call["name"], *call["arguments"])
    )
    if plain:
        return f"[{', '.join(map(_written, calls))}]"
    data = [{"name": call["name"], "parameters": call["arguments"]} for call in calls]
    return json.dumps(data, ensure_ascii=False)


def _written(call: Call) -> str:
    arguments = (f"{name}={_literal(value)}" for name, value in call["arguments"].items())
    return f"{call['name']}({', '.join(arguments)})"


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        inner = (f"{_literal(name)}: {_literal(one)}" for name, one in value.items())
        return f"{{{', '.join(inner)}}}"
    if value is None or isinstance(value, bool):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def result_text(name: str, content: str) -> str:
    """The result of a call, for a turn of the user."""
    return f"```tool_output\n{name}: {content}\n```"
