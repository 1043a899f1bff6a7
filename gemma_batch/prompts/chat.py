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
_PROBE_SYSTEM, _PROBE_USER = "7d1f-system-probe", "7d1f-user-probe"
_PROBE_ANSWER, _PROBE_REPLY = "7d1f-answer-probe", "7d1f-reply-probe"


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

    def render(
        self,
        messages: list[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> str:
        """The prompt text, with BOS if the template writes one.

        Neighbouring messages of the same role become one message; the list `messages` itself is
        not changed. With `continue_final` the text ends where the last message ends, so that the
        model writes on in this message. Raises `RowProblem` with `bad_messages` when the template
        refuses the conversation.
        """
        turns = merge(messages)
        if self._compiled is None:
            return SEPARATOR.join(turn["content"] for turn in turns)
        if not self.system_role:
            turns = fold_system(turns)
        try:
            if continue_final:
                return self._open(turns)
            return self._apply(turns, add_generation_prompt)
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as err:
            raise RowProblem(
                FailureCode.BAD_MESSAGES, f"the model's chat template refuses it: {err}"
            ) from None

    def _open(self, turns: list[Message]) -> str:
        """The prompt text up to the end of the last message, without the end of its turn.

        Spaces around the last message are left out, as Gemma's templates leave them out.
        """
        *before, last = turns
        probe = {"role": last["role"], "content": _PROBE_ANSWER}
        start, found, _ = self._apply([*before, probe], False).rpartition(_PROBE_ANSWER)
        if not found:
            raise ValueError("it does not show the last message")
        return start + last["content"].strip()

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

    def further_turn(self) -> tuple[str, str] | None:
        """The texts before and behind a user's reply to an answer, so that the model answers again.

        The first begins where the answer ends. None when the template takes no answers.
        """
        if self._compiled is None:
            return SEPARATOR, SEPARATOR
        turns = [
            {"role": "user", "content": _PROBE_USER},
            {"role": "assistant", "content": _PROBE_ANSWER},
            {"role": "user", "content": _PROBE_REPLY},
        ]
        try:
            _, answer, rest = self._apply(turns, True).partition(_PROBE_ANSWER)
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError):
            return None
        before, reply, behind = rest.partition(_PROBE_REPLY)
        return (before, behind) if answer and reply else None

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
