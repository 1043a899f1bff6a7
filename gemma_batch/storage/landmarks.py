"""Landmarks: what the driver saw at its local paths, so that another machine can compare.

The driver makes the landmarks and puts a stamp into a local output. Another machine has the same
output, input and model below the same paths only if it finds there what the driver saw. Otherwise
its results would stay on its own disk, and rows of files that only it lacks would fail. Paths in
s3:// need no landmarks.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.fs import is_local, is_s3, open_store
from gemma_batch.storage.listing import stat
from gemma_batch.storage.model_digest import WEIGHTS
from gemma_batch.storage.models import SMALL_FILES

STAMP = "_run/stamp"  # the key of the stamp of the start that writes the output now
MOST_FILES = 64  # input files that are looked at
CACHE_SECONDS = 5.0  # for a network file system to show what another machine has just written
PAUSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """What a machine sees that has the driver's local paths.

    `output` holds the stamp `stamp`. `inputs` are the URLs of some input files with their etags,
    one group for each disk of the driver. `model` is a folder, with the digest of its files in
    `digest`. A location that is not local is "", or has no group.
    """

    output: str = ""
    stamp: str = ""
    inputs: tuple[tuple[tuple[str, str], ...], ...] = ()
    model: str = ""
    digest: str = ""

    def __bool__(self) -> bool:
        """Whether any location is local."""
        return bool(self.output or self.inputs or self.model)

    def unseen(self) -> str | None:
        """The landmark that this machine does not see, as the end of a sentence, or None.

        Every landmark has to be there. Raises `StorageError` when a file system fails.
        """
        return self.lost_output() or self._changed_input() or self._lost_model()

    def lost(self) -> str | None:
        """The same in the middle of a run.

        Then single input files may be gone, and fail only their own rows. But when all known files
        of a disk are gone, this machine does not have the disk.
        """
        return self.lost_output() or self._lost_disk() or self._lost_model()

    def lost_output(self) -> str | None:
        """The same for the output alone, which is one small read."""
        deadline = time.monotonic() + CACHE_SECONDS
        while self.output and (found := _stamp(self.output)) != self.stamp:
            if time.monotonic() > deadline:
                what = "the stamp there is another run's" if found else "it finds no stamp there"
                return f"does not share output.path {self.output!r} with the driver: {what}"
            time.sleep(PAUSE)
        return None

    def _changed_input(self) -> str | None:
        for url, etag in itertools.chain(*self.inputs):
            if (found := _etag(url)) != etag:
                what = "has no such file" if found is None else "has another file there"
                return f"does not share the input file {url!r} with the driver: it {what}"
        return None

    def _lost_disk(self) -> str | None:
        for group in self.inputs:
            if all(_etag(url) is None for url, _ in group):
                text = (
                    f"does not share the input file {group[0][0]!r} with the driver: it has no such"
                )
                return f"{text} file, nor any other that the driver saw on that disk"
        return None

    def _lost_model(self) -> str | None:
        if not self.model or (found := folder_digest(self.model)) == self.digest:
            return None
        what = "has another model there" if found else "has no model there"
        return f"does not share the model {self.model!r} with the driver: it {what}"


def _stamp(output: str) -> str:
    try:
        return open_store(output).read(STAMP).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _etag(url: str) -> str | None:
    try:
        return stat(url).etag
    except InputError:
        return None


def put_stamp(output: str) -> str:
    """Put a new stamp into a local output and return it; "" for an output that is not local."""
    if is_s3(output):
        return ""
    stamp = uuid.uuid4().hex
    open_store(output).put(STAMP, stamp.encode())
    return stamp


def input_landmarks(files: Sequence[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Landmarks for input files, given by URL and etag: up to `MOST_FILES` local ones."""
    local = [(url, etag) for url, etag in files if is_local(url)]
    disks: dict[int, list[tuple[str, str]]] = {}
    for url, etag in local[:: -(-len(local) // MOST_FILES) or 1]:
        disks.setdefault(_disk(os.path.dirname(url)), []).append((url, etag))
    return tuple(map(tuple, disks.values()))


def _disk(folder: str) -> int:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return -1  # gone since it was listed; the reader of the file says so


@functools.lru_cache(maxsize=8)
def _hash(path: str, etag: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def folder_digest(folder: str) -> str:
    """A digest of a model's small files and of the sizes of its weights; "" without a folder.

    Modification times do not count, so that every node may hold a copy of the model.
    """
    path, facts = Path(folder), []
    try:
        for pattern in SMALL_FILES:
            for file in path.glob(pattern):
                facts.append((file.name, _hash(str(file), stat(str(file)).etag)))
        facts += [(file.name, str(file.stat().st_size)) for file in path.glob(WEIGHTS)]
    except (FileNotFoundError, InputError):
        return ""
    except OSError as err:
        raise StorageError(f"{folder!r}: {os.strerror(err.errno or 0)}") from err
    return hashlib.sha256(repr(sorted(set(facts))).encode()).hexdigest() if facts else ""
