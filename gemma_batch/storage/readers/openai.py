"""The reader of OpenAI batch files.

A file holds JSON lines of `{"custom_id", "body": {"messages", sampling parameters}}`. Its columns
are `custom_id`, `messages` and `params`: an object with the other fields of the body. `model` and
`stream` are dropped, because the job decides about model and streaming. This module does not check
whether parameters are valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gemma_batch.storage.readers.jsonl import JsonlReader
from gemma_batch.storage.readers.records import BadLine
from gemma_batch.storage.readers.text import lines, opened, reading

if TYPE_CHECKING:
    from gemma_batch.storage.interfaces import InputFile

DROPPED = {"messages", "model", "stream", "stream_options"}
ENDPOINT = "/chat/completions"


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
        if not isinstance(key, str) or not key:
            raise BadLine("has no 'custom_id', a text that is not empty")
        if not isinstance(body, dict):
            raise BadLine("has no 'body', an object")
        if not isinstance(body.get("messages"), list):
            raise BadLine("has no 'messages', a list, in its 'body'")
        url = line.get("url")
        if url is not None and not str(url).endswith(ENDPOINT):
            raise BadLine(f"asks for {str(url)[:80]!r}; only {ENDPOINT!r} can be answered")
        # OpenAI's clients write null for a parameter that was not set.
        params = {k: v for k, v in body.items() if k not in DROPPED and v is not None}
        return {"custom_id": key, "messages": body["messages"], "params": params}
