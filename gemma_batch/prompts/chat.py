"""Chat: renders messages to prompt text with the chat template of the model.

The text is the same as from Hugging Face's `apply_chat_template`. Gemma's generations differ in
one point, which this module hides: when a chat template has no place for a system message, the
system message becomes the beginning of the first user turn. This module knows neither rows nor
token ids. The trade-off: to find out whether a chat template knows the system role, the template
is rendered once with marked texts; its source is not read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from gemma_batch.errors import FailureCode, ModelError, SpecError
from gemma_batch.family.chat_templates import CHAT_TEMPLATES
from gemma_batch.prompts.sandbox import BoundedEnvironment
from gemma_batch.prompts.template import RowProblem

Message = dict[str, str]
BOS, EOS = "<bos>", "<eos>"
SEPARATOR = "\n\n"
_ROLES = {
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
_PROBE_SYSTEM, _PROBE_USER = "7d1f-system-probe", "7d1f-user-probe"
_PROBE_ANSWER = "7d1f-answer-probe"


class _Generation(Extension):
    """Parses `{% generation %}` and does nothing else.

    In Hugging Face's templates the tag marks the text that a model is trained on.
    """

    tags = {"generation"}  # noqa: RUF012 (the type jinja declares)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.cache
def _environment() -> BoundedEnvironment:
    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    env = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
    return env


class ChatTemplate:
    """The chat template of a model. `source` None renders plain text, for models without one.

    Raises `ModelError` when the template cannot be compiled or refuses a plain user message.
    """

    def __init__(self, source: str | None, bos_token: str = BOS, eos_token: str = EOS) -> None:
        self.source, self.bos_token, self.eos_token = source, bos_token, eos_token
        self._compiled: jinja2.Template | None = None
        self.system_role = False
        if source is None:
            return
        try:
            self._compiled = _environment().from_string(source)
            self._apply([{"role": "user", "content": _PROBE_USER}], True)
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as err:
            raise ModelError(
                f"the model's chat template cannot render a plain user message: {err}"
            ) from None
        self.system_role = self._has_system_role()

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatTemplate, (self.source, self.bos_token, self.eos_token)

    def render(self, messages: list[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt text, with BOS if the template writes one.

        Neighbouring messages of the same role become one message; the list `messages` itself is
        not changed. Raises `RowProblem` with `bad_messages` when the template refuses the
        conversation.
        """
        turns = merge(messages)
        if self._compiled is None:
            return SEPARATOR.join(turn["content"] for turn in turns)
        if not self.system_role:
            turns = fold_system(turns)
        try:
            return self._apply(turns, add_generation_prompt)
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as err:
            raise RowProblem(
                FailureCode.BAD_MESSAGES, f"the model's chat template refuses it: {err}"
            ) from None

    def after_answer(self) -> str:
        """The text that the template writes behind an answer; "" when it takes no answers."""
        if self._compiled is None:
            return ""
        turns = [
            {"role": "user", "content": _PROBE_USER},
            {"role": "assistant", "content": _PROBE_ANSWER},
        ]
        try:
            return self._apply(turns, False).partition(_PROBE_ANSWER)[2]
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError):
            return ""

    def _apply(self, messages: list[Message], add_generation_prompt: bool) -> str:
        assert self._compiled is not None
        values = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        return _environment().render(self._compiled, values)

    def _has_system_role(self) -> bool:
        probe = [
            {"role": "system", "content": _PROBE_SYSTEM},
            {"role": "user", "content": _PROBE_USER},
        ]
        try:
            text = self._apply(probe, True)
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError):
            return False
        return _PROBE_SYSTEM in text and _PROBE_USER in text


def default_chat_template(generation: str) -> ChatTemplate:
    """A template equivalent to that of a Gemma generation, to show plans without a tokenizer.

    Raises `SpecError` for an unknown generation.
    """
    if generation not in CHAT_TEMPLATES:
        known = ", ".join(CHAT_TEMPLATES)
        raise SpecError(f"there is no Gemma generation {generation!r}; known are {known}")
    return ChatTemplate(CHAT_TEMPLATES[generation])


def merge(messages: Iterable[Message]) -> list[Message]:
    """Join neighbouring messages of the same role, with an empty line between their texts.

    Gemma's templates demand that roles alternate.
    """
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            text = merged[-1]["content"] + SEPARATOR + message["content"]
            merged[-1] = {"role": message["role"], "content": text}
        else:
            merged.append({"role": message["role"], "content": message["content"]})
    return merged


def fold_system(messages: list[Message]) -> list[Message]:
    """Make a leading system message the beginning of the user message that follows it."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return messages
    system, user, *rest = messages
    folded = system["content"] + SEPARATOR + user["content"]
    return [{"role": "user", "content": folded}, *rest]


def read_conversation(value: Any) -> list[Message]:
    """Validate a row's conversation: a list of {"role", "content"}, or such a list as JSON.

    Returns the messages with the roles system (only first), user and assistant. Neighbouring
    messages of the same role are joined. Raises `RowProblem` with `bad_messages`.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise _bad(f"the conversation is not valid JSON: {err}") from None
    if not isinstance(value, list | tuple):
        raise _bad(f"a conversation is a list of messages, not {type(value).__name__}")
    messages = merge(_message(item, i) for i, item in enumerate(value))
    if not messages:
        raise _bad("the conversation is empty")
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            raise _bad("a system message can only stand first")
    if messages[-1]["role"] != "user":
        raise _bad(
            f"the last message is by {messages[-1]['role']!r}; it has to be by the user, so that "
            "there is something to answer"
        )
    return messages


def _message(item: Any, index: int) -> Message:
    where = f"message {index}"
    if not isinstance(item, dict):
        raise _bad(f"{where} is {type(item).__name__}, not an object with role and content")
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _bad(f"{where} has the role {role!r}; known are {', '.join(_ROLES)}"[:300])
    if item.get("tool_calls"):
        raise _bad(f"{where} has tool calls, which a conversation cannot hold here")
    return {"role": _ROLES[role], "content": _content(item.get("content"), where)}


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple) or not content:
        raise _bad(f"{where} has no text: its content is {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise _bad(f"{where} holds a part of type {kind!r}; only text parts can be used"[:300])
        texts.append(part["text"])
    return "\n".join(texts)


def _bad(message: str) -> RowProblem:
    return RowProblem(FailureCode.BAD_MESSAGES, message)
