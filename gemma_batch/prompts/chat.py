"""Chat: renders messages to prompt text with the chat template of the model.

The text is the same as from Hugging Face's `apply_chat_template`. Gemma's generations differ in
one point, which this module hides: when a chat template has no place for a system message, the
system message becomes the beginning of the first user turn. Another point are functions: Gemma 4
and FunctionGemma have a place for them in their templates, and write calls between control tokens.
For other models, calls and results are made text (see `tool_text.py`). This module knows neither
rows nor token ids. The trade-off: to find out what a chat template knows, the template is rendered
with marked texts; its source is not read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
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
from gemma_batch.prompts.tool_text import calls_text, result_text

# `role` and `content`. An assistant's message may have `calls`, a list of {name, arguments}; a
# message of the role `tool` is the result of a call, and has the `name` of its function.
Message = dict[str, Any]
BOS, EOS = "<bos>", "<eos>"
SEPARATOR = "\n\n"
_PROBE_SYSTEM, _PROBE_USER = "7d1f-system-probe", "7d1f-user-probe"
_PROBE_ANSWER, _PROBE_REPLY = "7d1f-answer-probe", "7d1f-reply-probe"
_PROBE_FUNCTION, _PROBE_VALUE, _PROBE_RESULT = "probe_7d1f", "7d1f-value", "7d1f-result"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE_FUNCTION,
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "Probe."}},
            "required": ["text"],
        },
    },
}
# Control tokens that begin a call -> the format of calls.
_CALL_MARKS = {"<|tool_call>": "gemma4", "<start_function_call>": "functiongemma"}
OPEN_THOUGHT, END_OF_THOUGHT = "<|channel>thought\n", "<channel|>"
_ERRORS = (jinja2.TemplateError, ArithmeticError, TypeError, ValueError)


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
        except _ERRORS as err:
            raise ModelError(
                f"the model's chat template cannot render a plain user message: {err}"
            ) from None
        self.system_role = self._has_system_role()

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatTemplate, (self.source, self.bos_token, self.eos_token)

    def render(
        self,
        messages: list[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        tools: Sequence[dict[str, Any]] = (),
        thinking: bool = False,
    ) -> str:
        """The prompt text, with BOS if the template writes one.

        `tools` are functions in OpenAI's form; they are shown if the template has a place for them
        (`calls`). `thinking` asks for thoughts, if the template can (`thinks`).

        Neighbouring messages of the same role become one message; the list `messages` itself is
        not changed. With `continue_final` the text ends where the last message ends, so that the
        model writes on in this message. Raises `RowProblem` with `bad_messages` when the template
        refuses the conversation.
        """
        turns = merge(messages if self.calls else map(_as_text, messages))
        if self._compiled is None:
            return SEPARATOR.join(turn["content"] for turn in turns)
        if self.calls:
            turns = self._with_calls(turns)
        if not self.system_role:  # the developer's turn of FunctionGemma is none
            turns = fold_system(turns)
        more: dict[str, Any] = {"tools": list(tools)} if self.calls and tools else {}
        if thinking:
            more["enable_thinking"] = True
        try:
            if continue_final:
                return self._open(turns, more)
            return self._apply(turns, add_generation_prompt, more)
        except _ERRORS as err:
            raise RowProblem(
                FailureCode.BAD_MESSAGES, f"the model's chat template refuses it: {err}"
            ) from None

    @functools.cached_property
    def calls(self) -> str | None:
        """The format of calls that the template writes; None when it knows no functions."""
        if self._compiled is None:
            return None
        user = {"role": "user", "content": _PROBE_USER}
        try:
            shown = self._apply([user], True, {"tools": [_PROBE_TOOL]})
            turns = [user, _native_call([{"name": _PROBE_FUNCTION, "arguments": {"text": "x"}}])]
            written = self._apply(turns, False)
        except _ERRORS:
            return None
        if _PROBE_FUNCTION not in shown or _PROBE_FUNCTION not in written:
            return None
        return next((form for mark, form in _CALL_MARKS.items() if mark in written), None)

    @functools.cached_property
    def thinks(self) -> bool:
        """Whether the template can ask the model for thoughts."""
        if self._compiled is None:
            return False
        user = {"role": "user", "content": _PROBE_USER}
        try:
            plain, asked = (
                self._apply([user], True),
                self._apply([user], True, {"enable_thinking": True}),
            )
        except _ERRORS:
            return False
        return plain != asked and "<|think|>" in asked

    @functools.cached_property
    def _results_beside_calls(self) -> bool:
        """Whether results stand in the message with the calls, and not in messages of their own."""
        call = [{"name": _PROBE_FUNCTION, "arguments": {"text": _PROBE_VALUE}}]
        result = {"role": "tool", "name": _PROBE_FUNCTION, "content": _PROBE_RESULT}
        user = {"role": "user", "content": _PROBE_USER}
        try:
            beside = [_native_call(call) | {"tool_responses": [_native_result(result)]}]
            return _PROBE_RESULT in self._apply([user, *beside], True)
        except _ERRORS:
            return False

    def _with_calls(self, turns: list[Message]) -> list[Message]:
        """The messages with calls and results as the template wants them."""
        found: list[Message] = []
        for turn in turns:
            if turn.get("calls"):
                found.append(turn | _native_call(turn["calls"]) | {"content": turn["content"]})
            elif turn["role"] == "tool" and self._results_beside_calls:
                found[-1].setdefault("tool_responses", []).append(_native_result(turn))
            elif turn["role"] == "system" and self.calls == "functiongemma":
                found.append(turn | {"role": "developer"})
            else:
                found.append(turn)
        return found

    def _open(self, turns: list[Message], more: dict[str, Any]) -> str:
        """The prompt text up to the end of the last message, without the end of its turn.

        Spaces around the last message are left out, as Gemma's templates leave them out.
        """
        *before, last = turns
        probe = {"role": last["role"], "content": _PROBE_ANSWER}
        start, found, _ = self._apply([*before, probe], False, more).rpartition(_PROBE_ANSWER)
        if not found:
            raise ValueError("it does not show the last message")
        return f"{start}{last['content'].strip()}"

    def after_answer(self) -> str:
        """The text that the template writes behind an answer; "" when it takes no answers."""
        if self._compiled is None:
            return ""
        turns: list[Message] = [
            {"role": "user", "content": _PROBE_USER},
            {"role": "assistant", "content": _PROBE_ANSWER},
        ]
        try:
            return self._apply(turns, False).partition(_PROBE_ANSWER)[2]
        except _ERRORS:
            return ""

    def further_turn(self, *, thinking: bool = False) -> tuple[str, str] | None:
        """The texts before and behind a user's reply to an answer, so that the model answers again.

        The first begins where the answer ends. `thinking` as for `render`. None when the template
        takes no answers.
        """
        if self._compiled is None:
            return SEPARATOR, SEPARATOR
        turns: list[Message] = [
            {"role": "user", "content": _PROBE_USER},
            {"role": "assistant", "content": _PROBE_ANSWER},
            {"role": "user", "content": _PROBE_REPLY},
        ]
        try:
            more = {"enable_thinking": True} if thinking else {}
            _, answer, rest = self._apply(turns, True, more).partition(_PROBE_ANSWER)
        except _ERRORS:
            return None
        before, reply, behind = rest.partition(_PROBE_REPLY)
        return (before, behind) if answer and reply else None

    def _apply(
        self,
        messages: list[Message],
        add_generation_prompt: bool,
        more: dict[str, Any] | None = None,
    ) -> str:
        assert self._compiled is not None
        values: dict[str, Any] = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            **(more or {}),
        }
        text: str = _environment().render(self._compiled, values)
        return text

    def _has_system_role(self) -> bool:
        probe = [
            {"role": "system", "content": _PROBE_SYSTEM},
            {"role": "user", "content": _PROBE_USER},
        ]
        try:
            text = self._apply(probe, True)
        except _ERRORS:
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

    Gemma's templates demand that roles alternate. Results of calls and messages with calls stay
    apart.
    """
    merged: list[Message] = []
    for message in messages:
        last: Message = merged[-1] if merged else {"role": None}
        apart = message["role"] == "tool" or "calls" in message or "calls" in last
        if last["role"] == message["role"] and not apart:
            text = last["content"] + SEPARATOR + message["content"]
            merged[-1] = {"role": message["role"], "content": text}
        else:
            merged.append(dict(message))
    return merged


def _as_text(message: Message) -> Message:
    """The message without calls or as a user's: their text is part of the content."""
    if message["role"] == "tool":
        text = result_text(message["name"], message["content"])
        return {"role": "user", "content": text}
    if calls := message.get("calls"):
        said = [message["content"]] if message["content"].strip() else []
        return {"role": message["role"], "content": "\n".join([*said, calls_text(calls)])}
    return {"role": message["role"], "content": message["content"]}


def _native_call(calls: Sequence[dict[str, Any]]) -> Message:
    """A message with calls as chat templates take it: OpenAI's, with arguments as a mapping."""
    called = [
        {"type": "function", "function": {"name": one["name"], "arguments": one["arguments"]}}
        for one in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": called}


def _native_result(message: Message) -> dict[str, Any]:
    return {"name": message["name"], "response": message["content"]}


def fold_system(messages: list[Message]) -> list[Message]:
    """Make a leading system message the beginning of the user message that follows it."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return messages
    system, user, *rest = messages
    folded = system["content"] + SEPARATOR + user["content"]
    return [{"role": "user", "content": folded}, *rest]
