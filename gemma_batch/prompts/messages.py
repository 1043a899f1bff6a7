"""Messages: brings the conversation of a row into one shape (CPU task, driver, laptop).

People write conversations in several ways: OpenAI's `role` and `content`, the `from` and `value` of
ShareGPT, the `parts` of Gemini. This module reads all of them, and says in one sentence why a
conversation cannot be answered. Calls of functions and their results are read in OpenAI's form (see
`calls_given.py`). It knows no chat template.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal

from gemma_batch.errors import FailureCode
from gemma_batch.prompts.calls_given import RESULT_ROLES, given_calls, named_results
from gemma_batch.prompts.chat import Message, merge
from gemma_batch.prompts.template import RowProblem

# The roles that people write (in any case of letters), and the role of the chat template.
ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
}
# Roles of calls and results in forms that are not OpenAI's.
TOOL_ROLES = frozenset({"ipython", "observation", "function_call", "tool_call", "tool_response"})
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
ROLE_FIELDS, TEXT_FIELDS = ("role", "from"), ("content", "value", "parts")
# The thoughts of an earlier answer of Gemma 4.
_THOUGHTS = re.compile(r"<\|channel>.*?<channel\|>", re.S)
CONTINUE = "continue_final_message"  # vLLM's name, for a row that asks for `continue`
LastAnswer = Literal["fail", "continue", "drop"]


def read_conversation(value: Any, *, last_answer: LastAnswer = "fail") -> list[Message]:
    """Validate a row's conversation: a list of messages, or such a list as JSON text.

    Returns the messages with the roles system (only first), user, assistant and tool (the result of
    a call, with the function's name). Neighbouring messages of the same role are joined, and
    thoughts of the assistant are left out. `last_answer` is about a conversation that ends with the
    assistant: "continue" lets it end so, and "drop" leaves its last message out. Raises
    `RowProblem` with `bad_messages`.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, list | tuple):
        raise _bad(f"a conversation is a list of messages, not {type(value).__name__}")
    messages = merge(named_results([_message(item, i) for i, item in enumerate(value)]))
    if last_answer == "drop" and messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise _bad("the conversation is empty")
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            raise _bad("a system message can only stand first")
    last = messages[-1]["role"]
    if messages[-1].get("calls"):
        raise _bad("the conversation ends with a call of a function: its result has to follow")
    if last == "assistant" and last_answer != "continue":
        raise _bad(
            "the last message is by 'assistant', so that nothing is asked: prompt.last_answer: "
            "drop leaves it out, and continue has the model write on where it ends"
        )
    if last == "system":
        raise _bad("the last message is by 'system'; a message by the user has to follow")
    return messages


def _parsed(text: str) -> Any:
    if not text.strip():
        raise _bad("the conversation is an empty text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise _bad(
            f"the conversation is text that is not valid JSON: {err} (a column of plain text "
            "belongs in prompt.user)"
        ) from None


def _message(item: Any, index: int) -> Message:
    where = f"message {index}"
    if not isinstance(item, dict):
        raise _bad(f"{where} is {type(item).__name__}, not an object with role and content")
    written = _one_of(item, ROLE_FIELDS, where)
    role = written.strip().lower() if isinstance(written, str) else ""
    if role in TOOL_ROLES:
        raise _bad(
            f"{where} has the role {written!r}: give calls as `tool_calls` of the assistant, and "
            "results as messages of the role 'tool'"
        )
    if role not in ROLES and role not in RESULT_ROLES:
        raise _bad(f"{where} has the role {written!r}; known are {', '.join(ROLES)}"[:300])
    calls = given_calls(item, where)
    if calls and ROLES.get(role) != "assistant":
        raise _bad(f"{where} has calls of functions, and is by {written!r}, not by the assistant")
    content = _one_of(item, TEXT_FIELDS, where)
    if calls and content in (None, [], ()):
        content = ""
    text = _content(content, where)
    if role in RESULT_ROLES:
        given = {name: item[name] for name in ("name", "tool_call_id") if item.get(name)}
        return {"role": "tool", "content": text, **given}
    if ROLES[role] == "assistant":
        text = _THOUGHTS.sub("", text).strip() if "<|channel>" in text else text
    return {"role": ROLES[role], "content": text, **({"calls": calls} if calls else {})}


def _one_of(item: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    """The value of the one field of `names` that the message has; None without any."""
    # A Parquet struct has every field in every message. A field that was not given is null.
    given = [name for name in names if item.get(name) is not None]
    if len(given) > 1 and item[given[0]] != item[given[1]]:
        raise _bad(f"{where} has both {given[0]!r} and {given[1]!r}, and they differ")
    return item[given[0]] if given else None


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple) or not content:
        raise _bad(f"{where} has no text: its content is {type(content).__name__}")
    return "\n".join(_text(part, where) for part in content)


def _text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind: Any = type(part).__name__
    if isinstance(part, dict):
        # The parts of Gemini have no type: a part of text has the field `text` alone.
        only = [name for name, value in part.items() if value is not None]
        kind = part.get("type") or ("text" if only == ["text"] else "/".join(map(str, only)))
        if isinstance(kind, str) and kind in TEXT_PARTS and isinstance(part.get("text"), str):
            return str(part["text"])
    raise _bad(f"{where} holds a part of type {reprlib.repr(kind)}; only text parts can be used")


def _bad(message: str) -> RowProblem:
    return RowProblem(FailureCode.BAD_MESSAGES, message)
