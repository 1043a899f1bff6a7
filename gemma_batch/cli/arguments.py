"""Arguments: the output that an argument means, and the files of people (laptop).

An argument may be the output or the spec of the job, as a person has one of the two at hand.
"""

from __future__ import annotations

import os
from pathlib import Path

from gemma_batch.errors import OutputError, SpecError, StorageError
from gemma_batch.storage.fs import is_local, is_s3, local_path, open_store

SPEC_NAMES = (".yaml", ".yml")


def output_of(argument: str) -> str:
    """The output that `argument` means: the output.path of a spec, or `argument` itself.

    A spec is a file, or has a name with one of `SPEC_NAMES`. A relative path in it counts from the
    current folder, as for `run`. Raises `SpecError` for a spec that cannot be read or is wrong, and
    `OutputError` for an argument that can be neither.
    """
    from gemma_batch.spec import JobSpec

    if not argument.strip():
        raise OutputError("the argument is empty: name a job's output.path, or its spec")
    if not is_local(argument):
        spec = argument.endswith(SPEC_NAMES)
        return JobSpec.load(argument).output.path if spec else argument
    path = _local(argument)
    if os.path.isfile(path) or (argument.endswith(SPEC_NAMES) and not os.path.isdir(path)):
        try:
            return JobSpec.load(path).output.path
        except SpecError as err:
            if argument.endswith(SPEC_NAMES):
                raise
            raise OutputError(
                f"{argument!r} is a file, and neither an output nor a spec ({err}): name a job's "
                "output.path, which is a folder, or its spec"
            ) from None
    check_folder(path, argument)
    return argument


def job_of(argument: str) -> str:
    """The job that `argument` means: the output.path of a spec, or `argument` itself.

    Raises `SpecError` for a spec that cannot be read or is wrong.
    """
    is_spec = argument.endswith(SPEC_NAMES) or os.path.isfile(argument)
    return output_of(argument) if is_spec else argument


def check_folder(path: str, shown: str) -> None:
    """Raise `OutputError` when a local path lies below something that is no folder."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as err:
        why = err.strerror if isinstance(err, OSError) else err
        raise OutputError(f"{shown!r} cannot be a folder: {why}") from None
    above = path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise OutputError(f"{shown!r} cannot be a folder: {above!r} is none")


def exists(url: str) -> bool:
    """Whether there is a file at the place. Raises `OutputError` for a place of unknown kind."""
    if is_s3(url):
        folder, _, name = url.rpartition("/")
        try:
            return open_store(folder).exists(name)
        except StorageError as err:
            raise OutputError(f"{url!r} cannot be used: {err}") from err
    return os.path.lexists(_local(url))


def check_text(url: str) -> None:
    """Raise `OutputError` where it is certain, without a write, that `write_text` will fail."""
    if not is_s3(url):
        path = _local(url)
        check_folder(os.path.dirname(path), os.path.dirname(url) or url)
        if not os.path.isdir(path) and not url.endswith("/"):
            return
    elif not url.endswith("/"):
        return
    raise OutputError(f"{url!r} is a folder: name a file in it")


def write_text(url: str, text: str) -> None:
    """Write a file for people to a local path or to s3://; folders above it are made.

    Raises `OutputError` when it cannot be written.
    """
    check_text(url)
    if is_s3(url):
        folder, _, name = url.rpartition("/")
        try:
            open_store(folder).put(name, text.encode())
        except StorageError as err:
            raise OutputError(f"{url!r} cannot be written: {err}") from err
        return
    path = _local(url)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as err:
        why = err.strerror if isinstance(err, OSError) else err
        raise OutputError(f"{url!r} cannot be written: {why}") from None


def _local(url: str) -> str:
    try:
        return local_path(url)
    except ValueError as err:
        raise OutputError(str(err)) from None
