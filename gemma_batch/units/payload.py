"""The payload: one unit as one row of Arrow values, on its way from a CPU task to a GPU actor.

The Ray CPU task encodes the unit and the GPU actor decodes it. One binary value holds all rows of
the unit as Arrow IPC streams, so Ray Data can neither split nor merge a unit. An error that ends
the run travels as data too. So its message reaches the driver whole, without the stack traces that
Ray would wrap around an exception.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from gemma_batch.prompts.rendered import decode_prompt
from gemma_batch.rows import Failure, Request
from gemma_batch.spec.sampling import params_from_json
from gemma_batch.units.known import Known
from gemma_batch.units.unit import Unit

KEEP = "keep."
KNOWN = b"known"  # in the metadata of the first stream: a stream of known answers follows


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A unit that was read and rendered.

    `numbers`, `ids` and `keep` (the kept columns) have one entry per row, in the same order. So has
    `raw`, the rows as they were read, packed (see `raw_rows.py`). Each row has either a request in
    `requests`, or a failure in `failures` (by row number), or an answer in `known`.
    """

    unit: Unit
    numbers: list[int]
    ids: list[str]
    keep: pa.Table
    raw: pa.Buffer
    requests: list[Request]
    failures: dict[int, Failure]
    known: Known | None = None


def encode_outcome(outcome: dict[str, Any]) -> pa.Table:
    """The outcome of a unit that was not prepared, in place of the unit.

    One row as `encode` returns it: `unit` is the outcome as JSON, and `rows` is null. The outcome
    is `{"error": ...}`, which ends the run unless "returned" is true in it.
    """
    message = json.dumps(outcome)
    return pa.table(
        {
            "unit": pa.array([message], pa.string()),
            "rows": pa.array([None], pa.large_binary()),
        }
    )


def encode(prepared: Prepared) -> pa.Table:
    """The unit as one row with the columns `unit` (JSON) and `rows` (Arrow IPC streams).

    The first stream has what an engine needs. The known answers follow, where there are any. The
    last stream has the raw rows.
    """
    by_number = {request.number: request for request in prepared.requests}
    failures = [prepared.failures.get(number) for number in prepared.numbers]
    prompts = [by_number[n].prompt if n in by_number else None for n in prepared.numbers]
    requests = [by_number.get(number) for number in prepared.numbers]
    sampling = [json.dumps(r.sampling) if r and r.sampling else None for r in requests]
    form = [json.dumps(r.form) if r and r.form else None for r in requests]
    table = pa.table(
        {
            "number": pa.array(prepared.numbers, pa.int64()),
            "id": pa.array(prepared.ids, pa.string()),
            "kind": pa.array([p.kind if p else None for p in prompts], pa.string()),
            "prompt": pa.array([p.encode() if p else None for p in prompts], pa.large_binary()),
            # Rows often bring the same schema, which may be long.
            "sampling": pa.array(sampling, pa.string()).dictionary_encode(),
            "form": pa.array(form, pa.string()).dictionary_encode(),
            "code": pa.array([f.code if f else None for f in failures], pa.string()),
            "message": pa.array([f.message if f else None for f in failures], pa.string()),
        }
    )
    for name in prepared.keep.column_names:
        table = table.append_column(KEEP + name, prepared.keep[name])
    known = prepared.known
    if known is not None:
        table = table.replace_schema_metadata({KNOWN: json.dumps(known.numbers).encode()})
    sink = pa.BufferOutputStream()
    for one in (table, *([] if known is None else [known.answers])):
        with pa.ipc.new_stream(sink, one.schema) as writer:
            writer.write_table(one)
    sink.write(prepared.raw)
    head = encode_head(prepared.unit)
    return pa.table(
        {
            "unit": pa.array([head], pa.string()),
            "rows": pa.array([sink.getvalue().to_pybytes()], pa.large_binary()),
        }
    )


def decode(head: str, rows: bytes | memoryview | pa.Buffer) -> Prepared:
    """The unit that `encode` made one row of. `head` is the row's `unit`, `rows` its `rows`."""
    unit = decode_head(head)
    buffer = pa.py_buffer(rows)
    source = pa.BufferReader(buffer)
    table = pa.ipc.open_stream(source).read_all()
    known = None
    if (numbers := (table.schema.metadata or {}).get(KNOWN)) is not None:
        known = Known(tuple(json.loads(numbers)), pa.ipc.open_stream(source).read_all())
    raw = buffer.slice(source.tell())
    keep_names = [name for name in table.column_names if name.startswith(KEEP)]
    keep = table.select(keep_names).rename_columns([n.removeprefix(KEEP) for n in keep_names])
    requests, failures = [], {}
    parsed: dict[str, Any] = {}  # rows with the same text share what it says
    fields = ("number", "kind", "prompt", "sampling", "form", "code", "message")
    for number, kind, prompt, sampling, form, code, message in zip(
        *(table[name].to_pylist() for name in fields), strict=True
    ):
        if code is not None:
            failures[number] = Failure(code, message)
            continue
        if kind is None:  # the answer is known
            continue
        for text in (sampling, form):
            if text and text not in parsed:
                parsed[text] = json.loads(text)
        own = params_from_json(parsed[sampling]) if sampling else {}
        asked = parsed[form] if form else {}
        requests.append(Request(number, decode_prompt(kind, prompt), own, asked))
    return Prepared(
        unit=unit,
        numbers=table["number"].to_pylist(),
        ids=table["id"].to_pylist(),
        keep=keep,
        raw=raw,
        requests=requests,
        failures=failures,
        known=known,
    )


def encode_head(unit: Unit) -> str:
    """The unit as JSON; the mask is hexadecimal text."""
    mask = unit.mask.hex() if unit.mask is not None else None
    return json.dumps({**asdict(unit), "mask": mask})


def decode_head(head: str) -> Unit:
    """The unit in the JSON of `encode_head`."""
    data: dict[str, Any] = json.loads(head)
    mask, members = data["mask"], data["members"]
    data["mask"] = bytes.fromhex(mask) if mask is not None else None
    data["members"] = tuple(members) if members is not None else None
    return Unit(**data)
