"""Calls: reads the calls of functions out of an answer (driver and GPU actor)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gemma_batch.answering.answers import Fields, Sample, refused
from gemma_batch.answering.calls_found import BadCallError, Call, Found
from gemma_batch.answering.calls_marked import FORMATS, marked_calls
from gemma_batch.answering.calls_written import written_calls
from gemma_batch.engines.forced_calls import forced_schema
from gemma_batch.rows import Refusal
from gemma_batch.spec import Tools

CALLS = pa.list_(
    pa.struct([("name", pa.string()), ("arguments", pa.string()), ("valid", pa.bool_())])
)
LONGEST = 200  # characters of an answer in a message


class Calls:
    """Reads the calls of `tools`, which the model writes in the format `form`.

    `form` is a key of `FORMATS`, or "text". The column `tool_calls` has the calls of an answer in
    their order; a call is `valid` when the job has the function and the arguments fit its schema.
    The text beside the calls stays.
    """

    def __init__(self, tools: Tools, form: str) -> None:
        self._tools, self._form = tools, form
        self._schemas = {one["name"]: json.dumps(one["parameters"]) for one in tools.functions}

    def fields(self) -> Fields:
        """The calls."""
        return [("tool_calls", CALLS)]

    def details(self) -> Fields:
        """None."""
        return []

    def asks(self) -> dict[str, Any]:
        """A list of calls as JSON, where each answer has to call; and the control tokens."""
        asked: dict[str, Any] = {}
        if self._form in FORMATS:
            asked["skip_special_tokens"] = False
        if self._tools.forced:
            text = json.dumps(forced_schema(self._tools), ensure_ascii=False)
            asked["structured_outputs"] = {"json": text}
        return asked

    def read(self, sample: Sample) -> Refusal | None:
        """Refuses a call that cannot be read, and calls against `tools.choice`.

        An answer to a row that asks for a shape of its own has no calls: it may look like one.
        """
        if sample.form.get("answer") is not None:
            sample.values["tool_calls"] = []
            return None
        try:
            found = self._found(sample)
            calls = [
                {"name": c.name, "arguments": c.arguments_text(), "valid": self._valid(c)}
                for c in found.calls
            ]
        except BadCallError as err:
            sample.inside = "a call of a function"
            return refused(f"a call in the answer cannot be read: {err}")
        if (against := self._against(found.calls, sample.text)) is not None:
            return refused(against)
        sample.cut(found.spans)
        if calls:
            sample.strip()
        sample.values["tool_calls"] = calls
        return None

    def _found(self, sample: Sample) -> Found:
        if not self._tools.forced and (marks := FORMATS.get(self._form)) is not None:
            return marked_calls(sample.text, marks, sample.find)
        cut_off = sample.finish_reason == "length"
        return written_calls(sample.text, self._schemas, cut_off=cut_off)

    def _against(self, calls: list[Call], text: str) -> str | None:
        """How the calls break `tools.choice`, in words."""
        choice = self._tools.choice
        if choice == "none" and calls:
            return f"the answer calls {calls[0].name!r}, and tools.choice is 'none'"
        if self._tools.forced and not calls:
            return f"the answer calls no function: {text[:LONGEST]!r}"
        if not isinstance(choice, str):
            for call in calls:
                if call.name != choice.name:
                    return f"the answer calls {call.name!r}, and not {choice.name!r}"
        return None

    def _valid(self, call: Call) -> bool:
        schema = self._schemas.get(call.name)
        if schema is None:
            return False
        try:
            return bool(_validator(schema).is_valid(call.arguments))
        except RecursionError:
            return False


@functools.lru_cache(maxsize=512)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    def pattern(validator: Any, wanted: str, found: Any, schema: Any) -> Any:
        if isinstance(found, str) and not _matches(wanted, found):
            yield ValidationError(f"{found[:LONGEST]!r} does not match {wanted!r}")

    data: Mapping[str, Any] = json.loads(schema)
    return extend(Draft202012Validator, {"pattern": pattern})(data)


def _matches(pattern: str, text: str) -> bool:
    """Whether a part of the text matches, in a time that grows with its length only.

    Not so for what Python alone can read: a job may have such a pattern, and no row.
    """
    try:
        found = pc.match_substring_regex(pa.array([text], pa.string()), pattern=pattern)
    except UnicodeEncodeError:
        return False  # half of a surrogate pair
    except pa.ArrowInvalid:
        return re.search(pattern, text) is not None
    return bool(found[0].as_py())
