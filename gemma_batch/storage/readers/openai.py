"""The reader of OpenAI batch files.

A file holds JSON lines of `{"custom_id", "body": {"messages", sampling parameters}}`. Its columns
are `custom_id`, `messages` and `params`: an object with the other fields of the body, without
`model`, because the job decides about the model. This module does not check whether parameters are
valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gemma_batch.storage.readers.jsonl import JsonlReader
from gemma_batch.storage.readers.records import BadLine
from gemma_batch.storage.readers.text import lines, opened, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

DROPPED = {"messages", "model"}
ENDPOINT = "/chat/completions"
# What else can be done with the lines of an endpoint that is not answered.
ADVICE = {
    "/responses": "read them as JSON lines, with input.format: jsonl and prompt.user: "
    "'{{ body.input }}' where the input is text",
    "/completions": "read them as JSON lines, with input.format: jsonl and prompt.user: "
    "'{{ body.prompt }}'",
    "/embeddings": "a job gives texts, no vectors",
}


def is_batch_line(data: Any) -> bool:
    """Whether the parsed line of a file is a line of an OpenAI batch file for chats."""
    if not (isinstance(data, dict) and "custom_id" in data and isinstance(data.get("body"), dict)):
        return False
    return "messages" in data["body"] or _endpoint(data.get("url")).endswith(ENDPOINT)


def other_endpoint(url: Any) -> str | None:
    """Why a line with this `url` cannot be answered; None when it can be.

    A line without `url` is one for chats.
    """
    path = _endpoint(url)
    if url is None or path.endswith(ENDPOINT):
        return None
    advice = next((f": {text}" for end, text in ADVICE.items() if path.endswith(end)), "")
    return f"asks for {str(url)[:80]!r}; only {ENDPOINT!r} can be answered{advice}"


def _endpoint(url: Any) -> str:
    return str(url).partition("?")[0].rstrip("/")


class OpenAIReader(JsonlReader):
    """See the module's docstring."""

    name = "openai"

    def schema(self, file: InputFile) -> pa.Schema:
        with reading(file.url), opened(file.url, expected=0) as stream:
            next(lines(stream, limit=self._limit), None)  # a file that can't be opened raises now
        return pa.schema([(name, pa.string()) for name in ("custom_id", "messages", "params")])

    def parse(self, data: bytes | None) -> dict[str, Any]:
        line = super().parse(data)
        key, body = line.get("custom_id"), line.get("body")
        if type(key) is int:
            key = str(key)
        if why := other_endpoint(line.get("url")):
            raise BadLine(why)
        if not isinstance(key, str) or not key:
            raise BadLine("has no 'custom_id', a text that is not empty")
        if not isinstance(body, dict):
            raise BadLine(f"has no 'body', an object{_other_shape(line)}")
        if not isinstance(body.get("messages"), list):
            raise BadLine("has no 'messages', a list, in its 'body'")
        # OpenAI's clients write null for a parameter that was not set.
        params = {k: v for k, v in body.items() if k not in DROPPED and v is not None}
        return {"custom_id": key, "messages": body["messages"], "params": params}


def _other_shape(line: dict[str, Any]) -> str:
    if isinstance(line.get("params"), dict):
        return ": a line for Anthropic has 'params' in its place, which has to be renamed"
    return ""
