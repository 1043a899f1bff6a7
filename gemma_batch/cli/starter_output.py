"""Starter output: where `init` proposes to put the answers: beside the input (laptop)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from gemma_batch.errors import StorageError
from gemma_batch.storage.fs import is_local, is_s3, local_path
from gemma_batch.storage.listing import covers
from gemma_batch.storage.parts import RESULTS

WILDCARD = re.compile(r"[*?\[{]")
PROBE = f"{RESULTS}/part-00000-0000000000.parquet"


def beside(path: str, name: str, *, is_file: bool) -> str:
    """An output beside the input at `path`, which no path of the input means.

    `is_file` says that `path` is one file. `name` is the name of the job. An input in s3:// gets an
    output in the same bucket. An output in the current folder is proposed where nothing can be
    written beside the input, or where the input is on the hub.
    """
    here = f"{name}-out"
    if not is_s3(path) and not is_local(path):
        return here
    for place in _places(path, is_file=is_file):
        try:
            if not covers(path, f"{place}/{PROBE}") and _can_be_made(place):
                return place
        except (StorageError, ValueError):
            continue
    return here


def _places(path: str, *, is_file: bool) -> Iterator[str]:
    folder = path
    if (wild := WILDCARD.search(path)) and not is_file:
        folder = path[: wild.start()].rpartition("/")[0]
        if not folder and not path.startswith("/"):
            folder = "."
    if is_file:
        above, slash, name = path.rpartition("/")
        yield f"{above}{slash}{name.split('.')[0] or name}-out"
        return
    folder = folder.rstrip("/")
    if is_s3(folder):
        bucket, _, prefix = folder.removeprefix("s3://").partition("/")
        if prefix:
            yield f"{folder}-out"
        yield f"s3://{bucket}/out"
        yield f"s3://{bucket}/_out"  # also beside files of the whole bucket: `_` is left out there
        return
    if not folder:
        yield "/_out"
    elif os.path.basename(folder) in (".", ".."):
        yield f"{folder}/out".removeprefix("./")
        yield f"{folder}/../{os.path.basename(local_path(folder))}-out".removeprefix("./")
    else:
        yield f"{folder}-out"


def _can_be_made(place: str) -> bool:
    if is_s3(place):
        return True
    above = local_path(place)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    return os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK)
