"""Places: refuses an input and an output that lie in each other (driver, laptop, submitter).

A start that lists its own results reads answers as rows. So the output may not be where the input
is listed. An output whose files no path of the input means is allowed, such as a folder beside
`*.jsonl`, or a folder whose name starts with `_`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

from gemma_batch.errors import InputError, OutputError, StorageError
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import is_s3, local_path
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import covers
from gemma_batch.storage.names import has_magic
from gemma_batch.storage.parts import ERRORS, RESULTS

PROBE = f"{RESULTS}/part-00000-0000000000.parquet"
OWN = (RESULTS, ERRORS, "_run")


def check_places(spec: JobSpec, files: Iterable[InputFile]) -> None:
    """Raise `OutputError` or `InputError` when results of the job could become rows of its input.

    `files` are the input as it is now.
    """
    output = spec.output.path.rstrip("/")
    for path in spec.input.paths:
        if _covers(path, f"{output}/{PROBE}"):
            raise OutputError(_inside(output, path))
    try:
        own = tuple(f"{_place(output)}/{name}/" for name in OWN)
    except ValueError:
        return  # whoever opens the output refuses it with a sentence
    folders: dict[str, str] = {}
    for file in files:
        folders.setdefault(os.path.dirname(file.url), file.url)
    for folder, url in folders.items():
        elsewhere = "://" in folder and not is_s3(folder)  # such as hf://
        if not elsewhere and f"{_place(folder)}/".startswith(own):
            raise InputError(
                f"the input file {url!r} is in the job's own output.path {output!r}: name an "
                "output.path in another place"
            )


def _covers(path: str, url: str) -> bool:
    try:
        return covers(path, url)
    except (StorageError, ValueError):
        return False  # a location of another kind, or one that cannot be reached


def _place(url: str) -> str:
    """The place of a location, without links."""
    return url.rstrip("/") if is_s3(url) else os.path.realpath(local_path(url))


def _inside(output: str, path: str) -> str:
    folder = path.rstrip("/")
    if _place(output) == _place(folder):
        where = f"output.path {output!r} is the folder of the input"
    else:
        where = f"output.path {output!r} is where input.path {path!r} is listed"
    fixed = "/".join(itertools.takewhile(lambda name: not has_magic(name), folder.split("/")))
    bucket = is_s3(fixed) and len(fixed.split("/")) <= len(("s3:", "", "bucket"))
    beside = f"{fixed}/answers" if bucket else f"{fixed or 'input'}-out"
    return (
        f"{where}: the next start would read the results as rows. Name an output.path outside of "
        f"the input, such as {beside!r}, or let input.path name only the input's own files"
    )
