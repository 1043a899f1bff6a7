"""Folders: columns in the names of folders, such as `year=2026/lang=de/` (driver, laptop).

This is how Hive, Spark and others write data sets in partitions. Every folder in the path of a file
counts, also one that `input.path` names, so that a column does not vanish when a job reads a single
partition. A column is whole numbers when all its values are written as Python writes whole numbers
(`2026`, but not `01`): the text of such a number is the same as in the path. Otherwise it is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from gemma_batch.storage.keep import as_text
from gemma_batch.storage.readers.filled import Constant
from gemma_batch.units.unit import Shard

NULL = "__HIVE_DEFAULT_PARTITION__"
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def folder_values(url: str) -> list[tuple[str, str | None]]:
    """Column and value of each folder `column=value` in a path, from the outside to the inside."""
    found = []
    for folder in url.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name:
            found.append((unquote(name), None if value == NULL else unquote(value)))
    return found


def with_folders(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    """The shards, each with the columns that the names of its folders hold.

    The innermost folder counts when two folders of a path name one column.
    """
    shards = list(shards)
    named = [dict(folder_values(shard.url)) for shard in shards]
    values: dict[str, set[str | None]] = {}
    for one in named:
        for name, value in one.items():
            values.setdefault(name, set()).add(value)
    numbers = {
        name
        for name, all_values in values.items()
        if all(value is None or NUMBER.fullmatch(value) for value in all_values)
    }
    return tuple(
        replace(shard, constants=tuple(_typed(one, numbers).items())) if one else shard
        for shard, one in zip(shards, named, strict=True)
    )


def with_constants(
    shards: Iterable[Shard], constants: Mapping[str, Sequence[tuple[str, Any]]]
) -> tuple[Shard, ...]:
    """The shards, each with the columns that its table knows, by the URL of the shard.

    The table knows better than the names of folders. Values that are no text and no whole number
    become text, as in the path.
    """
    return tuple(
        replace(shard, constants=tuple({**dict(shard.constants), **_plain(known)}.items()))
        if (known := constants.get(shard.url))
        else shard
        for shard in shards
    )


def _plain(known: Sequence[tuple[str, Any]]) -> dict[str, Constant]:
    return {
        name: value if value is None or type(value) in (str, int) else as_text(value)
        for name, value in known
    }


def _typed(values: dict[str, str | None], numbers: set[str]) -> dict[str, Constant]:
    return {
        name: int(value) if value is not None and name in numbers else value
        for name, value in values.items()
    }


def named_twice(shards: Sequence[Shard]) -> dict[str, str]:
    """Columns that two folders of one path name with different values: column -> such a path."""
    found: dict[str, str] = {}
    for shard in shards:
        inner: dict[str, str | None] = {}
        for name, value in folder_values(shard.url):
            if inner.setdefault(name, value) != value:
                found.setdefault(name, shard.url)
    return found
