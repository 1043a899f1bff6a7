"""Writes the files of a `Table` with pyarrow, csv and json in the plainest way."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import zstandard

from tests.hostile.tables import DELIMITERS, FOLDER, KEYS, LINES, TYPED, TYPES, File, Table

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
}


def write(table: Table, folder: Path) -> list[Path]:
    """Write the files below `folder`; the paths of the files in their order."""
    paths: list[Path] = []
    number = 0
    for place, file in enumerate(table.files):
        keys = [KEYS[table.key[1]](number + i) for i in range(len(file.rows))]
        number += len(keys)
        path = folder / file.folder / _folders(table, file)
        path.mkdir(parents=True, exist_ok=True)
        path /= f"part {place:03d}.{table.format}{table.packed}"
        path.write_bytes(b"" if file.empty == "bytes" else _data(table, file, keys))
        paths.append(path)
    if table.junk:
        (folder / "_SUCCESS").write_bytes(b"")
        (folder / ".part 000.crc").write_bytes(b"crc")
    return paths


def _folders(table: Table, file: File) -> str:
    names = [name for name, kind in table.columns if kind == FOLDER]
    return "/".join(
        f"{quote(name, safe=' ')}={NO_VALUE if value is None else quote(value, safe=' =')}"
        for name, value in zip(names, file.folders, strict=True)
    )


def _data(table: Table, file: File, keys: list[Any]) -> bytes:
    if table.format in TYPED:
        return _typed(table, file, keys)
    data = _json(table, file, keys) if table.format in LINES else _csv(table, file, keys)
    return PACK[table.packed](data)


def _in_file(table: Table, file: File) -> list[int]:
    return [
        place
        for place, (_, kind) in enumerate(table.columns)
        if kind != FOLDER and place not in file.lacks
    ]


def _typed(table: Table, file: File, keys: list[Any]) -> bytes:
    names, arrays = [table.key[0]], [pa.array(keys, TYPES[table.key[1]][0])]
    own = dict(file.kinds)
    for place in _in_file(table, file):
        name, kind = table.columns[place]
        names.append(name)
        values = [row[place] for row in file.rows]
        arrays.append(pa.array(values, TYPES[own.get(place, kind)][0]))
    found, sink, layout = pa.table(arrays, names=names), io.BytesIO(), table.layout
    if table.format == "orc":
        orc.write_table(found, sink)
    elif table.format == "arrow":
        options = pa.ipc.IpcWriteOptions(compression=layout.get("compression"))
        make = pa.ipc.new_stream if layout.get("stream") else pa.ipc.new_file
        with make(sink, found.schema, options=options) as writer:
            writer.write_table(found)
    else:
        pq.write_table(
            found,
            sink,
            compression=layout.get("compression", "snappy"),
            row_group_size=layout.get("row_group_size", 1000),
            use_deprecated_int96_timestamps=layout.get("int96"),
            store_schema=not layout.get("no_schema"),
        )
    return sink.getvalue()


def _json(table: Table, file: File, keys: list[Any]) -> bytes:
    lines = []
    for place in range(len(file.rows) + 1):
        if place in file.broken:
            lines.append('{"cut": ')
        if place < len(file.rows):
            row = {table.key[0]: keys[place]}
            row |= {table.columns[i][0]: file.rows[place][i] for i in _in_file(table, file)}
            lines.append(json.dumps(row, ensure_ascii=bool(table.layout.get("ascii"))))
        if table.layout.get("blank"):
            lines.append("")
    end = "\r\n" if table.layout.get("crlf") else "\n"
    if table.layout.get("array"):
        return f"[{f',{end}'.join(lines)}]".encode()
    return "".join(line + end for line in lines).encode()


def _csv(table: Table, file: File, keys: list[Any]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        delimiter=DELIMITERS[table.format],
        lineterminator="\r\n" if table.layout.get("crlf") else "\n",
        quoting=csv.QUOTE_ALL if table.layout.get("quote_all") else csv.QUOTE_MINIMAL,
    )
    present = _in_file(table, file)
    writer.writerow([table.key[0], *(table.columns[i][0] for i in present)])
    for key, row in zip(keys, file.rows, strict=True):
        writer.writerow([key, *(row[i] for i in present)])
    return (b"\xef\xbb\xbf" if table.layout.get("bom") else b"") + text.getvalue().encode()
