"""Starter: makes the spec that `init` writes, by the columns of the input."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from gemma_batch.cli.choice import TEXTS, id_column, text_column, to_keep
from gemma_batch.cli.starter_input import listed, look
from gemma_batch.cli.starter_output import beside
from gemma_batch.errors import InputError
from gemma_batch.planning.folders import with_constants, with_folders
from gemma_batch.planning.recognise import advice, conversation_column, ends_answered
from gemma_batch.prompts.mentions import mention
from gemma_batch.rows import Row
from gemma_batch.storage.fs import is_local, local_path
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.options import ReadOptions
from gemma_batch.units.unit import Shard

PLAIN = re.compile(r"(?:[A-Za-z]|\.{0,2}/)[A-Za-z0-9_./-]*")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # YAML reads no text in them
LOOKED_AT_ROWS = 50
QUESTION = "What is this about?\n\n"
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
#   - {{name: long, when: {when}, model: google/gemma-3-27b-it}}
#   - {{name: rest, model: google/gemma-3-4b-it}}

sampling:                 # vLLM's own names: n, seed, stop, top_p, min_p, logprobs, ...
  temperature: 0
  max_tokens: 256

output:
  path: {output}
  keep: []              # input columns copied to the results{example}; {{gold: output}} renames

# resources:              # what is left out, the plan chooses
#   replicas: auto        # or a number, or {{min: 1, max: 8}}
#   max_model_len: 8192   # prompt and answer together, in tokens
#   engine: echo          # a dry run of everything but the model

# policy:
#   max_failed: 0.1%      # more failed rows than this: exit code 3
"""


def starter_spec(path: str, model: str) -> str:
    """A commented spec for the input at `path`. Raises `InputError` when no input can be used."""
    found, given = listed(path)
    file, kind, options, more = look(path, found.files)
    given += more
    shard = _first_shard(file, kind, options, found.constants)
    schema = shard.reader.schema(shard.file)
    if not schema.names:
        raise InputError(f"{file.url!r} has no columns")
    rows = _first_rows(shard, schema)
    key = id_column(schema, rows)
    when, text = "length(body) > 12000", ""
    if kind == "openai":
        prompt, key = "# The input holds whole conversations (OpenAI batch lines).", None
    elif (talk := conversation_column(rows)) is not None:
        prompt = f"prompt:\n  messages: {_quoted(talk)}        # a column of ready conversations"
        if ends_answered(rows, talk):
            prompt += "\n  last_answer: drop         # the answer at their end is asked for anew"
    elif "messages" in schema.names:
        prompt = "prompt:\n  messages: messages        # a column of ready conversations"
    else:
        text = text_column(schema, rows)
        given += f"  # {_shown(known)}\n" if (known := advice(rows)) else ""
        prompt = (
            "prompt:\n"
            "  system: You answer in one short sentence.\n"
            f"  user: {_quoted(f'{QUESTION}{mention(text)}')}   # Jinja over the columns\n"
            "  overlong: fail            # or truncate_start, truncate_end of the document"
        )
        when = _condition(text, schema)
    stem = path.rstrip("/").split("/")[-1].split("*")[0].split(".")[0].strip("-_") or "job"
    return TEMPLATE.format(
        name=_quoted(stem),
        path=_quoted(path),
        given=given,
        columns=", ".join(f"{_shown(field.name)} ({_shown(str(field.type))})" for field in schema),
        id=f"  id: {_quoted(key)}\n" if key else "",
        prompt=prompt,
        model=_quoted(model),
        when=_quoted(when, always=True),
        output=_quoted(beside(path, stem, is_file=_names(path, file))),
        example=_example(schema, {key, text}),
    )


def _first_shard(
    file: InputFile, kind: str, options: ReadOptions, constants: Mapping[str, Any]
) -> Shard:
    shard = Shard(
        number=0, url=file.url, size=file.size, etag=file.etag, format=kind, options=options
    )
    return with_constants(with_folders([shard]), constants)[0]


def _first_rows(shard: Shard, schema: pa.Schema) -> list[Row]:
    counts = Counter(schema.names)
    once = [name for name in schema.names if counts[name] == 1]
    span = shard.reader.head(shard.file, LOOKED_AT_ROWS)
    return [row for row in shard.reader.read(shard.file, span, once) if row.values is not None]


def _condition(text: str, schema: pa.Schema) -> str:
    """An example of `when` about the column with the text."""
    if not text:
        return "true"  # SQL has no way to write a name without letters
    plain = text.isascii() and text.isidentifier() and text.lower() in TEXTS
    column = text if plain else '"' + text.replace('"', '""') + '"'
    long = pa.types.is_string(schema.field(text).type)
    return f"length({column}) > 12000" if long else f"{column} IS NOT NULL"


def _names(path: str, file: InputFile) -> bool:
    """Whether the path is that of one file."""
    return file.url == (local_path(path) if is_local(path) else path)


def _example(schema: pa.Schema, others: Collection[str | None]) -> str:
    """A column that might be kept, for the comment; the id and the text are not an example."""
    names = [name for name in to_keep(schema) if name not in others and PLAIN.fullmatch(name)]
    return f", such as [{names[0]}]" if names else ""


def _quoted(value: str, *, always: bool = False) -> str:
    # A value that YAML reads as text is written without quotes, as people write it.
    plain = not always and PLAIN.fullmatch(value) and value.lower() not in WORDS
    return value if plain else "".join(map(_printable, json.dumps(value, ensure_ascii=False)))


def _printable(char: str) -> str:
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def _shown(text: str) -> str:
    """The text for a YAML comment. A name from a file must not end the comment's line."""
    return text if text.isprintable() else json.dumps(text)
