"""Render: makes requests of rows; the one place that makes, checks and tokenizes a prompt.

The renderer takes plain arguments and no spec, so that it can be used alone. It knows no engine.
Everything that is wrong with a row becomes a `Failure` of that row. The trade-off: rows are
tokenized in batches, by threads that run while the next rows are rendered. All prompts of a unit
are therefore in memory at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from gemma_batch.errors import FailureCode
from gemma_batch.prompts.chat import SEPARATOR
from gemma_batch.prompts.conversation import Conversation, Turn, document, joined
from gemma_batch.prompts.messages import CONTINUE, LastAnswer, read_conversation
from gemma_batch.prompts.rendered import TokenPrompt
from gemma_batch.prompts.shown_tools import shown_tools
from gemma_batch.prompts.template import RowProblem, Segment, Template, check_text
from gemma_batch.prompts.tokens import TextTokenizer
from gemma_batch.prompts.truncate import Side, precut, shorten
from gemma_batch.rows import Failure, Own, Request, Row

Overlong = Literal["fail", "truncate_start", "truncate_end"]
AllowedParams = Callable[[dict[str, Any]], Own]
EXTRA = "extra_body"
BATCH_ROWS = 256  # rows that are tokenized at once
_SIDES: dict[Overlong, Side] = {"truncate_start": "start", "truncate_end": "end"}


@dataclass(frozen=True, slots=True)
class _Draft:
    number: int
    conversation: Conversation
    own: Own
    room: int  # tokens that the prompt may have
    text: str


class Renderer:
    """Makes requests of rows; can be pickled, because all its parts can be pickled.

    `system` and `user` are templates. `messages` names a column of ready conversations. `params`
    names a column of sampling overrides; `allowed_params` validates them and raises ValueError.
    `last_answer` says what is done with a conversation that ends with the assistant (see
    `read_conversation`); a row's own `continue_final_message` overrides it. `tools` are functions
    that the model may call, as {name, description, parameters}, and `tool_choice` is "auto", "none"
    or "required". `thinking` asks for thoughts; with `opened` the prompt ends inside a thought.
    Lengths are in tokens: prompt and answer (`max_tokens`) together have to fit `max_model_len`.
    Raises `SpecError` for a template that does not compile.
    """

    def __init__(
        self,
        *,
        system: str | None,
        user: str | None,
        messages: str | None,
        params: str | None,
        overlong: Overlong,
        tokenizer: TextTokenizer,
        max_model_len: int,
        max_tokens: int,
        allowed_params: AllowedParams | None = None,
        last_answer: LastAnswer = "fail",
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: str = "auto",
        thinking: bool = False,
        opened: bool = False,
    ) -> None:
        if (user is None) == (messages is None):
            raise ValueError("give exactly one of `user` and `messages`")
        self._system = None if system is None else Template(system, field="prompt.system")
        self._user = None if user is None else Template(user, field="prompt.user")
        self._messages, self._params, self._overlong = messages, params, overlong
        self._tokenizer = tokenizer
        self._max_model_len, self._max_tokens = max_model_len, max_tokens
        self._allowed, self._last_answer = allowed_params, last_answer
        self._thinking, self._opened = thinking, opened
        self._shown = shown_tools(tools, tool_choice, tokenizer)

    def render_rows(self, rows: list[Row]) -> list[Request | Failure]:
        """A request or a failure for each row, in order."""
        with ThreadPoolExecutor(1) as beside:  # one batch at a time, because it uses all cores
            batches = []
            for start in range(0, len(rows), BATCH_ROWS):
                drafts = [self._try_draft(row) for row in rows[start : start + BATCH_ROWS]]
                texts = [draft.text for draft in drafts if isinstance(draft, _Draft)]
                batches.append((drafts, beside.submit(self._tokenizer.encode_batch, texts)))
            answers: list[Request | Failure] = []
            for drafts, encoded in batches:
                ids = iter(encoded.result())
                answers += [
                    self._try_finish(draft, next(ids)) if isinstance(draft, _Draft) else draft
                    for draft in drafts
                ]
        return answers

    def preview(self, row: Row) -> str:
        """The prompt text of one row as the model would see it, not cut. Raises `RowProblem`."""
        if row.failure is not None:
            raise RowProblem(row.failure.code, row.failure.message)
        values = row.values or {}
        own = read_params(values, self._params, self._allowed)
        return self._conversation(values, own).text(self._tokenizer)

    def _try_draft(self, row: Row) -> _Draft | Failure:
        if row.failure is not None:
            return row.failure
        try:
            return self._draft(row.number, row.values or {})
        except RowProblem as problem:
            return Failure(problem.code, problem.message)

    def _draft(self, number: int, values: dict[str, Any]) -> _Draft:
        own = read_params(values, self._params, self._allowed)
        answer = own.sampling.get("max_tokens", self._max_tokens)
        if isinstance(answer, bool) or not isinstance(answer, int) or answer < 1:
            raise RowProblem(
                FailureCode.BAD_PARAMS, f"max_tokens is {answer!r}, not a number of tokens"
            )
        room = self._max_model_len - answer
        if room < 1:
            raise RowProblem(
                FailureCode.PROMPT_TOO_LONG,
                f"an answer of up to {answer:,} tokens leaves no room for a prompt: the limit is "
                f"{self._max_model_len:,} tokens for both",
            )
        conversation = self._conversation(values, own)
        if conversation.blank():
            raise RowProblem(
                FailureCode.EMPTY_PROMPT, "every value that the prompt takes from the row is empty"
            )
        if (side := _SIDES.get(self._overlong)) is not None:
            conversation = precut(conversation, limit=room, side=side, tokenizer=self._tokenizer)
        text = conversation.text(self._tokenizer)
        least = len(text) // self._tokenizer.longest_token
        if self._overlong == "fail" and least > room:  # too long by its characters alone
            raise self._too_long(f"at least {least:,}", room)
        return _Draft(number, conversation, own, room, text)

    def _try_finish(self, draft: _Draft, ids: list[int]) -> Request | Failure:
        try:
            return self._finish(draft, ids)
        except RowProblem as problem:
            return Failure(problem.code, problem.message)

    def _finish(self, draft: _Draft, ids: list[int]) -> Request:
        if len(ids) <= draft.room:
            return Request(draft.number, TokenPrompt(ids), draft.own.sampling, draft.own.form)
        if (side := _SIDES.get(self._overlong)) is None:
            raise self._too_long(f"{len(ids):,}", draft.room)
        shortened = shorten(
            draft.conversation, limit=draft.room, side=side, tokenizer=self._tokenizer
        )
        if shortened is None:
            raise self._too_long(f"{len(ids):,}", draft.room, "even without its documents")
        return Request(draft.number, TokenPrompt(shortened), draft.own.sampling, draft.own.form)

    def _too_long(self, tokens: str, room: int, why: str = "") -> RowProblem:
        answer = self._max_model_len - room
        return RowProblem(
            FailureCode.PROMPT_TOO_LONG,
            f"the prompt has {tokens} tokens and the answer up to {answer:,}, which does not fit "
            f"the limit of {self._max_model_len:,}{' ' if why else ''}{why}",
        )

    def _conversation(self, values: dict[str, Any], own: Own) -> Conversation:
        system = () if self._system is None else tuple(self._system.render(values).segments)
        if self._user is not None:
            if self._last(values) == "continue":
                raise _bad_params(
                    f"{CONTINUE}: the prompt comes from prompt.user, so it does not end with a "
                    "message of the assistant"
                )
            user = Turn("user", tuple(self._user.render(values).segments))
            turns = [user]
        else:
            turns = self._ready(values)
            if system and turns[0].role == "system":
                system = joined([system, turns.pop(0).segments], SEPARATOR)
        opened = self._opened or (self._thinking and own.enforced)
        if opened and turns[-1].role == "assistant":
            raise RowProblem(
                FailureCode.BAD_MESSAGES,
                "the model is to continue its last message, so it cannot think before an answer of "
                "a certain shape: leave `thinking` out, or the continuing",
            )
        shown = self._shown
        if own.tools:
            shown = shown_tools(own.tools, own.tool_choice, self._tokenizer, own=True)
        if shown.said:  # often equal in all rows, so it stands first: rows share it as a prefix
            system = joined([shown.said, system] if system else [shown.said], SEPARATOR)
        if any(segment.text for segment in system):
            turns.insert(0, Turn("system", system, cuttable=self._user is not None))
        return Conversation(tuple(turns), shown.native, self._thinking, opened)

    def _ready(self, values: dict[str, Any]) -> list[Turn]:
        assert self._messages is not None
        value = _column(values, self._messages, "prompt.messages")
        turns = []
        for message in read_conversation(value, last_answer=self._last(values)):
            check_text(message["content"])
            segments: tuple[Segment, ...] = (document(message["content"]),)
            role, calls = message["role"], tuple(message.get("calls", ()))
            turns.append(Turn(role, segments, role == "user", calls, message.get("name")))
        return turns

    def _last(self, values: dict[str, Any]) -> LastAnswer:
        own = given_params(values, self._params)
        if own.get(CONTINUE) is True:
            return "continue"
        refused = own.get(CONTINUE) is False and self._last_answer == "continue"
        return "fail" if refused else self._last_answer


def read_params(values: dict[str, Any], column: str | None, allowed: AllowedParams | None) -> Own:
    """The parameters in a row's `column`, checked by `allowed`; nothing without a column.

    Raises `RowProblem` when they are no object, or `allowed` raises ValueError.
    """
    given = given_params(values, column)
    try:
        return allowed(given) if allowed is not None and given else Own(given, {})
    except ValueError as err:
        raise _bad_params(f"{column!r}: {err}"[:500]) from None


def given_params(values: dict[str, Any], column: str | None) -> dict[str, Any]:
    """The parameters in a row's `column` as the row gives them, without nulls, not checked.

    Raises `RowProblem` when they are no object, or give a parameter twice.
    """
    given = None if column is None else values.get(column)
    if given is None:
        return {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as err:
            raise _bad_params(f"{column!r} is not valid JSON: {err}") from None
    if not isinstance(given, dict):
        raise _bad_params(f"{column!r} is {type(given).__name__}, not an object")
    # A Parquet struct has every field in every row. A field that was not given is null.
    given = {name: value for name, value in given.items() if value is not None}
    # OpenAI's Python client puts the fields of `extra_body` beside the others. So does this.
    extra = given.pop(EXTRA, {})
    if not isinstance(extra, dict):
        raise _bad_params(f"{column!r}: {EXTRA!r} is {type(extra).__name__}, not an object")
    extra = {name: value for name, value in extra.items() if value is not None}
    if twice := sorted(name for name in extra.keys() & given.keys() if extra[name] != given[name]):
        raise _bad_params(f"{column!r}: {twice[0]!r} has another value in {EXTRA!r}"[:500])
    return {**given, **extra}


def _column(values: dict[str, Any], name: str, field: str) -> Any:
    if name not in values:
        raise RowProblem(FailureCode.MISSING_FIELD, f"{field}: {name!r} is not in this row")
    if values[name] is None:
        raise RowProblem(FailureCode.NULL_VALUE, f"{field}: {name!r} is null")
    return values[name]


def _bad_params(message: str) -> RowProblem:
    return RowProblem(FailureCode.BAD_PARAMS, message)
