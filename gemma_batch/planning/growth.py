"""Growth: the files of the input that an output knows already, and those that are new (driver).

An input with `input.grow` gets files from time to time. The output keeps the files that it knows
with their numbers, and the new files get the numbers after them. A known file may have another etag
and the same contents: it was only touched, and counts as unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from gemma_batch.errors import InputError, StorageError
from gemma_batch.planning.folders import NUMBER
from gemma_batch.planning.widening import wider_type
from gemma_batch.storage.contents import digests
from gemma_batch.storage.listing import stat
from gemma_batch.storage.readers.filled import Constant
from gemma_batch.units.unit import Shard


@dataclass(frozen=True, slots=True)
class Told:
    """Files of the input, told apart: `known` to the output, and `new`.

    `touched` are the known files with another etag and the same contents.
    """

    known: tuple[Shard, ...]
    new: tuple[Shard, ...]
    touched: tuple[Shard, ...] = ()


def tell(found: Sequence[Shard], known: Sequence[Shard]) -> Told:
    """Tell the shards `found` now from those that the output has.

    A known shard keeps its number and digest, and has the size and etag of now. New shards get the
    numbers after all known ones, also after known ones that are missing now.
    """
    recorded = {shard.url: shard for shard in known}
    again, new = list[Shard](), list[Shard]()
    for shard in found:
        if (old := recorded.get(shard.url)) is None:
            new.append(shard)
        else:
            settled = replace(shard, number=old.number, constants=old.constants)
            again.append(replace(settled, digest=old.digest))
    first = 1 + max((shard.number for shard in known), default=-1)
    numbered = [
        replace(shard, number=number, constants=_alike(shard.constants, known))
        for number, shard in enumerate(new, first)
    ]
    doubtful = [
        shard
        for shard in again
        if shard.etag != recorded[shard.url].etag
        and shard.size == recorded[shard.url].size
        and shard.digest
    ]
    now = dict(zip(doubtful, _digests_of(doubtful), strict=True)) if doubtful else {}
    touched = tuple(shard for shard, digest in now.items() if digest == shard.digest)
    again.sort(key=lambda shard: shard.number)
    return Told(tuple(again), tuple(numbered), touched)


def _alike(
    constants: Sequence[tuple[str, Constant]], known: Sequence[Shard]
) -> tuple[tuple[str, Constant], ...]:
    """The constants of a new shard, as numbers where those of the known shards are numbers.

    The folders of all files decide the type together, and a new folder such as `part=x1` would
    make the numbers of the others texts.
    """
    if not constants or not known:
        return tuple(constants)
    numbers = {name for shard in known for name, value in shard.constants if type(value) is int}
    return tuple(
        (name, int(value))
        if name in numbers and isinstance(value, str) and NUMBER.fullmatch(value)
        else (name, value)
        for name, value in constants
    )


def with_digests(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards with the digests of their contents, as far as they are local files.

    A file that has changed since it was listed gets none: its rows fail. Raises `InputError` for a
    file that cannot be read.
    """
    pairs = zip(shards, _digests_of(shards), strict=True)
    return tuple(
        replace(shard, digest=digest) if digest and stat(shard.url).etag == shard.etag else shard
        for shard, digest in pairs
    )


def _digests_of(shards: Sequence[Shard]) -> list[str]:
    try:
        return list(digests([shard.url for shard in shards]))
    except StorageError as err:
        raise InputError(f"an input file cannot be read: {err}") from err


def check_kept(
    new: Mapping[str, pa.DataType], settled: Mapping[str, pa.DataType], files: int
) -> list[str]:
    """Sentences about kept columns whose type in the new files is wider than in the output.

    `new` are the types in the `files` new files, `settled` those of the output, by the name in the
    input. Raises `InputError` when no value of the new type can be kept as the settled one.
    """
    notes = []
    for name, kind in settled.items():
        found = new.get(name, kind)
        if found == kind or pa.types.is_string(kind):
            continue
        wider = wider_type(kind, found)
        if wider is None:
            raise InputError(
                f"the column {name!r}, which the output keeps, is {kind} in the output and {found} "
                f"in the {files:,} new file(s): one output has one type. Give the new files the "
                "old type, or name a new output.path"
            )
        if wider != kind:
            notes.append(
                f"the column {name!r} is {found} in the new files and {kind} in the output: rows "
                "whose value does not fit there fail"
            )
    return notes
