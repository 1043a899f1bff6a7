"""Careful: reads a unit whose reading processes died, without the files that kill (Ray CPU task).

A file can take down the process that reads it: by a fault of the library that decodes it, or by
its size in memory. A unit of several files must not lose the rows of the others. So a child process
reads the files one by one and tells before each which one it is. When it dies, the file that it
told last is the cause, and another child goes on behind that file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from gemma_batch.errors import StorageError
from gemma_batch.reading.source import given_up, unit_rows
from gemma_batch.rows import Row
from gemma_batch.units.bundle import pack_shards, shards_of, unpack_shards
from gemma_batch.units.payload import decode_head, encode_head
from gemma_batch.units.unit import Shards, Unit

MOST_DEATHS = 16  # a start of a child takes seconds; with so many, the rest is given up, too
END = "end"


def careful_rows(shards: Shards, unit: Unit, columns: Sequence[str]) -> list[Row]:
    """The rows of a unit that every reading process died with: those of the files that kill failed.

    Of a unit of one shard, all rows are failed, and the shard is not opened. Raises `StorageError`
    when storage does not answer.
    """
    if unit.members is None:
        return given_up(shards, unit)
    dead = _deadly(shards, unit, columns)
    return unit_rows(shards, unit, columns, dead)


def _deadly(shards: Shards, unit: Unit, columns: Sequence[str]) -> set[int]:
    """The numbers of the shards whose reading kills a process."""
    todo = [place.shard for place in unit.places]
    dead: set[int] = set()
    while todo:
        told = _told(shards, unit, columns, todo)
        if told[-1:] == [END]:
            return dead
        if not told or len(dead) == MOST_DEATHS:
            return dead | set(todo)
        last = int(told[-1])
        dead.add(last)
        todo = todo[todo.index(last) + 1 :]
    return dead


def _told(shards: Shards, unit: Unit, columns: Sequence[str], todo: Sequence[int]) -> list[str]:
    task = {
        "shards": pack_shards(shards_of([unit], shards)).hex(),
        "unit": encode_head(unit),
        "columns": list(columns),
        "todo": list(todo),
    }
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=child_environment(),
    )
    *told, last = ["", *child.stdout.splitlines()]
    if last.startswith("{"):
        raise StorageError(json.loads(last)["error"])
    return [line for line in (*told, last) if line]


def child_environment() -> dict[str, str]:
    """The environment of a child process that imports this package."""
    path = [os.environ.get("PYTHONPATH", ""), *sys.path]  # the package may be at a place of Ray's
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def main() -> None:
    """The child: reads the files of the task on stdin, and tells each before it reads it."""
    task = json.load(sys.stdin)
    shards, unit = unpack_shards(bytes.fromhex(task["shards"])), decode_head(task["unit"])
    todo = set(task["todo"])
    for place in unit.places:
        if place.shard in todo:
            print(place.shard, flush=True)
            others = {other.shard for other in unit.places} - {place.shard}
            try:
                unit_rows(shards, unit, task["columns"], others)
            except StorageError as err:
                print(json.dumps({"error": str(err)}), flush=True)
                return
    print(END, flush=True)


if __name__ == "__main__":
    main()
