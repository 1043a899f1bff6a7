"""Bundles: the shards of a unit, packed for their way to the task that reads the unit.

The driver packs and the Ray CPU task unpacks. A unit may hold thousands of small shards, whose URLs
begin alike: packed, a shard takes about 60 bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping

from gemma_batch.units.unit import Shard, Shards, Unit, shard_from


def shards_of(units: Iterable[Unit], shards: Shards) -> dict[int, Shard]:
    """The shards that the units are made of, by number; `shards` has at least these."""
    return {number: shards[number] for unit in units for number in unit.shards}


def pack_shards(shards: Mapping[int, Shard]) -> bytes:
    """The shards as bytes; `unpack_shards` makes them again."""
    return zlib.compress(json.dumps([shard.plain() for shard in shards.values()]).encode(), 1)


def unpack_shards(packed: bytes) -> dict[int, Shard]:
    """The shards that `pack_shards` made the bytes of, by number."""
    found = map(shard_from, json.loads(zlib.decompress(packed)))
    return {shard.number: shard for shard in found}
