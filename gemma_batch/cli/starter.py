"""Starter: makes the spec that `init` writes, by the columns of the input."""

from __future__ import annotations

import json
import re

import pyarrow as pa

from gemma_batch.cli.starter_input import look
from gemma_batch.errors import InputError
from gemma_batch.planning.input_files import find_files
from gemma_batch.planning.recognise import LOOKED_ROWS, conversation_column, ends_answered
from gemma_batch.rows import Row
from gemma_batch.spec import Input
from gemma_batch.storage.formats import reader_for
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.reader import Reader

PLAIN = re.compile(r"(?:[A-Za-z]|\.{0,2}/)[A-Za-z0-9_./-]*")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # YAML reads no text in them
TEMPLATE = """\
# A job for gemma-batch. Check it with `gemma-batch plan THIS --gpu H100-80`, run it with
# `gemma-batch run THIS`. Anything can be overridden: --set sampling.max_tokens=64
name: {name}

input:
  path: {path}
{given}  # columns: {columns}
{id}
{prompt}

# A Gemma by name (`gemma-batch models`), or a local or s3:// folder that holds one.
model: {model}
# Several models in one run, the first matching route wins (SQL over the row's columns):
# routes:
#   - {{name: long, when: "{when}", model: google/gemma-3-27b-it}}
#   - {{name: rest, model: google/gemma-3-4b-it}}

sampling:                 # vLLM's own names: n, seed, stop, top_p, min_p, logprobs, ...
  temperature: 0
  max_tokens: 256

output:
  path: {output}
  keep: [{keep}]          # input columns copied to the results

# resources:              # what is left out, the plan chooses
#   replicas: auto        # or a number, or {{min: 1, max: 8}}
#   max_model_len: 8192   # prompt and answer together, in tokens
#   engine: echo          # a dry run of everything but the model

# policy:
#   max_failed: 0.1%      # more failed rows than this: exit code 3
"""


def starter_spec(path: str, model: str) -> str:
    """A commented spec for the input at `path`. Raises `InputError` when no input can be used."""
    files = find_files(Input(path=path)).files
    file, kind, options, given = look(path, files)
    schema = reader_for(kind, options).schema(file)
    if not schema.names:
        raise InputError(f"{file.url!r} has no columns")
    key = _id_column(schema)
    text = "body"
    if kind == "openai":
        prompt, key = "# The input holds whole conversations (OpenAI batch lines).", None
    elif (talk := conversation_column(rows := _first(file, reader_for(kind, options)))) is not None:
        prompt = f"prompt:\n  messages: {_quoted(talk)}        # a column of ready conversations"
        if ends_answered(rows, talk):
            prompt += "\n  last_answer: drop         # the answer at their end is asked for anew"
    elif "messages" in schema.names:
        prompt = "prompt:\n  messages: messages        # a column of ready conversations"
    else:
        text = _text_column(schema)
        prompt = (
            "prompt:\n"
            "  system: You answer in one short sentence.\n"
            f'  user: "What is this about?\\n\\n{{{{ {text} }}}}"   # Jinja over the columns\n'
            "  overlong: fail            # or truncate_start, truncate_end of the document"
        )
    stem = path.rstrip("/").split("/")[-1].split("*")[0].split(".")[0].strip("-_") or "job"
    return TEMPLATE.format(
        name=_quoted(stem),
        path=_quoted(path),
        given=given,
        columns=", ".join(f"{_shown(field.name)} ({_shown(str(field.type))})" for field in schema),
        id=f"  id: {_quoted(key)}\n" if key else "",
        prompt=prompt,
        model=_quoted(model),
        when=f"length({text}) > 12000",
        output=_quoted(
            f"{stem}-out" if "://" not in path else path.split("*")[0].rstrip("/") + "-out"
        ),
        keep=_quoted(key) if key else "",
    )


def _first(file: InputFile, reader: Reader) -> list[Row]:
    return list(reader.read(file, reader.head(file, LOOKED_ROWS), None))


def _text_column(schema: pa.Schema) -> str:
    # A template can use a column only by a name that is an identifier.
    usable = [f for f in schema if f.name.isidentifier()]
    if not usable:
        raise InputError(
            f"no column has a name that a template can use, such as {schema.names[0]!r}: rename "
            "the one with the text to letters, digits and _"
        )
    texts = [
        f.name for f in usable if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    ]
    for name in ("text", "body", "content", "document", "doc", "prompt", "description"):
        if name in texts:
            return name
    other = [name for name in texts if not name.lower().endswith("id")]
    return str((other or texts or [f.name for f in usable])[-1])


def _id_column(schema: pa.Schema) -> str | None:
    for name in schema.names:
        if name.lower() in {"id", "uuid", "key", "custom_id"} or name.lower().endswith("_id"):
            return str(name)
    return None


def _quoted(value: str) -> str:
    # A value that YAML reads as text is written without quotes, as people write it.
    plain = PLAIN.fullmatch(value) and value.lower() not in WORDS
    return value if plain else json.dumps(value)


def _shown(text: str) -> str:
    """The text for a YAML comment. A name from a file must not end the comment's line."""
    return text if text.isprintable() else json.dumps(text)
