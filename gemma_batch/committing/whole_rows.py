"""Whole rows: reads failed rows again, with every column, for `errors.row` (GPU actor, driver).

Only the columns that the job reads travel with a unit. A unit with failures reads its failed rows
once more where its errors file is built. A child process does that. So a file whose other columns
take down the process that reads them costs neither the engine nor the driver, and the decoding
takes no time from the threads that feed the engine. The child finds the input files, as they were
planned, in the manifest of the output. The commit and the repair ask the same question and get the
same answer.

A row has the columns that the job reads, and no others, when the whole row cannot be read: the file
was changed or removed, or the row was in a sorted copy and its place in the input is expensive to
find (see `FAR`).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from gemma_batch.committing.manifest import load_manifest
from gemma_batch.errors import GemmaBatchError, InputError, StorageError
from gemma_batch.reading.careful import child_environment
from gemma_batch.reading.source import REQUESTS
from gemma_batch.storage.contents import digests
from gemma_batch.storage.formats import STAGED
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.patience import patience, set_patience
from gemma_batch.storage.readers.reader import Span
from gemma_batch.storage.whole import as_it_is
from gemma_batch.units.raw_rows import row_text
from gemma_batch.units.unit import Shard, Unit

logger = logging.getLogger(__name__)
IDLE = 60.0  # seconds without a question after which the child ends
# A sorted copy names the place of a row by its number. In Parquet the footer leads there. Of other
# formats the rows before it are read too, so larger files (bytes) are not read for that.
FAR = 64 * 2**20


def with_whole_rows(raw: pa.Table, output: str, unit: Unit) -> pa.Table:
    """The raw rows (see `units/raw_rows.py`) of failed rows of `unit`, whole where they can be.

    `output` is the URL of the output, whose manifest names the input files. Raises `StorageError`
    when storage does not answer.
    """
    own, urls, numbers = (raw[name].to_pylist() for name in ("row", "shard", "row_number"))
    wanted = [i for i, text in enumerate(own) if text is not None]
    if not wanted:
        return raw
    alone = unit.members is None
    near = [unit.shard, unit.first_row, unit.rows, unit.mark, unit.bytes] if alone else None
    places = [[urls[i], numbers[i]] for i in wanted]
    question = {"output": output, "near": near, "places": places, "patience": patience()}
    for i, text in zip(wanted, _asked(question), strict=True):
        own[i] = own[i] if text is None else text
    return raw.set_column(0, raw.schema.field("row"), pa.array(own, raw.schema.field("row").type))


# -- the parent -------------------------------------------------------------------------------


class _Child:
    """The child process of this process, which is started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: str) -> str | None:
        """The line that answers the line `question`; None when the child dies twice of it."""
        with self._lock:
            for _ in range(2):  # a child that waited too long for a question has ended meanwhile
                process = self._process = self._running()
                assert process.stdin is not None
                assert process.stdout is not None
                with contextlib.suppress(BrokenPipeError):
                    print(question, file=process.stdin, flush=True)
                if (answer := process.stdout.readline()).endswith("\n"):
                    return answer
                self.end()
        return None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.end()
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C in a terminal is for the driver
            env=child_environment(),
        )

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.wait()


_child = _Child()
_of_parents: list[_Child] = []  # of the processes that this process was forked from


def _end() -> None:
    _child.end()


def _forked() -> None:
    global _child
    _of_parents.append(_child)
    _child = _Child()


atexit.register(_end)
os.register_at_fork(after_in_child=_forked)


def _asked(question: Mapping[str, Any]) -> list[str | None]:
    answer = _child.ask(json.dumps(question))
    if answer is None:
        logger.warning(
            "the columns of %d failed rows that the job does not read are not in errors/: the "
            "process that read them died",
            len(question["places"]),
        )
        return [None] * len(question["places"])
    found = json.loads(answer)
    if "error" in found:
        raise StorageError(found["error"])
    texts: list[str | None] = found["rows"]
    return texts


# -- the child --------------------------------------------------------------------------------


def main() -> None:
    """Answer one line of JSON on stdin after the other, until stdin ends or nobody asks."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, this process goes first, and not an engine
    shards: dict[str, dict[str, Shard]] = {}
    while select.select([sys.stdin], [], [], IDLE)[0] and (line := sys.stdin.readline()):
        try:
            answer: dict[str, Any] = {"rows": _rows(json.loads(line), shards)}
        except GemmaBatchError as err:
            answer = {"error": str(err)}
        print(json.dumps(answer), file=answers, flush=True)


def _rows(question: Mapping[str, Any], known: dict[str, dict[str, Shard]]) -> list[str | None]:
    set_patience(question["patience"])
    places = [(url, number) for url, number in question["places"]]
    groups: dict[str, list[int]] = {}
    for url, number in places:
        groups.setdefault(url, []).append(number)
    output = question["output"]
    if not groups.keys() <= known.get(output, {}).keys():  # files may have been added meanwhile
        manifest = load_manifest(open_store(output))
        all_shards = manifest.by_number.values() if manifest else ()
        known[output] = {shard.url: shard for shard in all_shards if shard.format != STAGED}
    shards = [known[output][url] for url in groups if url in known[output]]
    near = question["near"]

    def read(shard: Shard) -> dict[tuple[str, int], str]:
        span = _span(shard, frozenset(groups[shard.url]), near)
        pairs = _texts(shard, span) if span is not None else ()
        return {(shard.url, number): text for number, text in pairs}

    with ThreadPoolExecutor(REQUESTS) as pool:
        found = {place: text for some in pool.map(read, shards) for place, text in some.items()}
    return [found.get(place) for place in places]


def _span(shard: Shard, only: frozenset[int], near: list[int] | None) -> Span | None:
    """The span of a shard that holds the rows `only`. `near` are number and span of the unit."""
    first, last = min(only), max(only)
    if shard.format == "parquet":
        return Span(first, last - first + 1, 0, 0, only=only)
    if near is not None and near[0] == shard.number:
        return Span(*near[1:], only=only)
    if shard.size <= FAR:
        return replace(shard.reader.head(shard.file, last + 1), only=only)
    return None


def _texts(shard: Shard, span: Span) -> Iterator[tuple[int, str]]:
    assert span.only is not None
    left = set(span.only)
    try:
        with as_it_is(shard.file) as found:
            if not _unchanged(shard, found):
                return
            for row in shard.reader.read(shard.file, span, None):
                if row.number in left:
                    left.remove(row.number)
                    if (text := row_text(row)) is not None:
                        yield row.number, text
                    if not left:
                        return
    except InputError:
        return


@functools.lru_cache(maxsize=100_000)
def _unchanged(shard: Shard, found: InputFile) -> bool:
    """Whether the file `found` has the contents of the shard (see `planning/growth.py`)."""
    if (found.size, found.etag) == (shard.size, shard.etag):
        return True
    return found.size == shard.size and "" != shard.digest == next(digests([shard.url]))


if __name__ == "__main__":
    main()
