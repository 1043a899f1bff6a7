"""The hub: asks it which files a model has, and brings them to this node (driver, GPU actor).

The driver asks once and hands on the commit and the names of the files. A node that has these files
asks nothing. Otherwise one process per node fetches them while the other processes wait. The hub
counts requests, so a refusal for being asked too often is waited out as the hub says.
"""

from __future__ import annotations

import email.utils
import itertools
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gemma_batch.backoff import pause
from gemma_batch.errors import ModelError, StorageError
from gemma_batch.storage.patience import QUICK_SECONDS, TELL_AFTER, chain, patience

T = TypeVar("T")
logger = logging.getLogger(__name__)
HUB_SECONDS = 10.0  # the time limit of one question
DOWNLOADS = 8
BUSY_SECONDS = 120.0  # for so long at least, a hub that is asked too often is waited for
BUSY = 429
TRANSIENT = {408, BUSY, 500, 502, 503, 504}

Files = tuple[tuple[str, int], ...]  # name and bytes of each file


class HubSilent(Exception):
    """The hub cannot be reached, or refuses to answer now; the cause is the exception's cause."""


def ask_hub(model: str, revision: str | None) -> tuple[str, Files]:
    """The commit of a model's revision, and its files.

    Raises `ModelError` for a model or revision that the hub does not have or does not give out,
    `HubSilent` when the hub does not answer.
    """
    from huggingface_hub import HfApi, constants, errors

    page = f"{_without_password(constants.ENDPOINT)}/{model}"

    def ask() -> Any:
        return HfApi().model_info(
            model, revision=revision, files_metadata=True, timeout=HUB_SECONDS
        )

    try:
        info = patiently(ask)
    except errors.RevisionNotFoundError as err:
        raise ModelError(f"the model {model!r} has no revision {revision!r}: see {page}") from err
    except errors.HFValidationError as err:
        raise ModelError(
            f"{model!r} is neither a hub id such as google/gemma-3-4b-it nor an existing folder"
        ) from err
    except errors.GatedRepoError as err:
        raise _gated(model) from err
    except errors.RepositoryNotFoundError as err:
        raise ModelError(
            f"the model {model!r} does not exist on the hub, or is private: check the id "
            "(`gemma-batch models` lists the known ones), and set HF_TOKEN if it is yours"
        ) from err
    except request_errors() as err:
        raise HubSilent from err
    files = [(file.rfilename, int(file.size or 0)) for file in info.siblings or []]
    return str(info.sha), tuple(one for one in files if "/" not in one[0])


def hub_folder(model: str, commit: str, names: list[str]) -> str:
    """A folder with these files of a commit; fetches those that this node does not have.

    Raises `ModelError` when the hub does not give them, `StorageError` when the cache of the hub
    cannot be written.
    """
    from filelock import FileLock
    from huggingface_hub import constants

    if (folder := cached_folder(model, commit, names)) is not None:
        return folder
    cache = Path(constants.HF_HUB_CACHE)
    lock = cache / ".locks" / f"gemma_batch-{model.replace('/', '--')}-{commit}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if (folder := cached_folder(model, commit, names)) is None:
                folder = _download(model, commit, names)
    except OSError as err:
        raise StorageError(
            f"the model {model!r} cannot be written to the hub's cache {str(cache)!r} "
            f"({err.strerror or type(err).__name__}): free some space, or set HF_HUB_CACHE to "
            "another folder"
        ) from err
    return folder


def cached_folder(model: str, commit: str, names: list[str]) -> str | None:
    """The folder of a commit on this node if it has all of these files, else None."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(model, name, revision=commit) for name in names]
    if not paths or not all(isinstance(path, str) for path in paths):
        return None
    return str(Path(str(paths[0])).parent)


def _download(model: str, commit: str, names: list[str]) -> str:
    from huggingface_hub import errors, hf_hub_download

    def fetch(name: str) -> str:
        # A file that is here already costs no question, because a commit does not change.
        return patiently(
            lambda: hf_hub_download(model, name, revision=commit, etag_timeout=HUB_SECONDS)
        )

    try:
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            paths = list(pool.map(fetch, names))
    except errors.GatedRepoError as err:
        raise _gated(model) from err
    except errors.RepositoryNotFoundError as err:
        raise ModelError(
            f"the hub gives {model!r} to the driver but not to {os.uname().nodename}: set HF_TOKEN "
            "on every node"
        ) from err
    except request_errors() as err:
        if _local(err):
            raise
        raise unreachable(model, err) from err
    return str(Path(paths[0]).parent)


def patiently(ask: Callable[[], T]) -> T:
    """Call `ask` again while the hub is busy or fails for a while, as long as patience lasts.

    The hub says in `Retry-After` how long to wait. The last error is raised unchanged.
    """
    started, told = time.monotonic(), False
    for i in itertools.count():
        try:
            return ask()
        except Exception as err:
            status = _status(err)
            wait = max(_retry_after(err), pause(i, base=0.5, cap=8.0))
            limit = max(patience(), BUSY_SECONDS) if status == BUSY else patience()
            if not _transient(err, status) or time.monotonic() - started + wait > limit:
                raise
            if not told and time.monotonic() - started + wait > TELL_AFTER:
                told = True
                what = f"HTTP {status}" if status else type(err).__name__
                logger.warning("the model hub does not answer (%s): trying on", what)
        time.sleep(wait)
    raise AssertionError("unreachable")


def _transient(err: BaseException, status: int | None) -> bool:
    if status is not None:
        return status in TRANSIENT
    names = {kind.__name__ for one in chain(err) for kind in type(one).__mro__}
    if names & {"TimeoutException", "Timeout", "TimeoutError"} and "ConnectTimeout" not in names:
        return True
    # A laptop without a network plans from the catalog and should not wait for one. A worker of a
    # run should.
    broken = names & {"TransportError", "ConnectionError", "ConnectTimeout"}
    return bool(broken) and "OfflineModeIsEnabled" not in names and patience() > QUICK_SECONDS


def _status(err: BaseException) -> int | None:
    found = (getattr(getattr(one, "response", None), "status_code", None) for one in chain(err))
    return next((int(status) for status in found if status is not None), None)


def _retry_after(err: BaseException) -> float:
    """Seconds that the hub asks to wait, as a number or a date; 0 when it asks for nothing."""
    for one in chain(err):
        text = getattr(getattr(one, "response", None), "headers", {}).get("Retry-After")
        if text is None:
            continue
        if text.strip().isdigit():
            return float(text)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            return 0.0
    return 0.0


def request_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    # Versions of the hub's client differ in the HTTP library that they are built on.
    bases = errors.HfHubHTTPError.__mro__
    return (next(c for c in bases if c.__name__ == "HTTPError"), OSError)


def _local(err: BaseException) -> bool:
    """Whether this machine's disk failed, and not the hub."""
    return isinstance(err, OSError) and err.errno is not None and _status(err) is None


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _gated(model: str) -> ModelError:
    from huggingface_hub import constants

    page = f"{_without_password(constants.ENDPOINT)}/{model}"
    return ModelError(
        f"the licence of {model!r} is not accepted by the account in use: accept it at "
        f"{page}, then set HF_TOKEN to a token of that account"
    )


def unreachable(model: str, cause: BaseException | None) -> ModelError:
    """The sentence for a hub that does not answer."""
    status = _status(cause) if cause is not None else None
    what = f"HTTP {status}" if status else type(cause).__name__
    hint = "set HF_TOKEN, which raises the hub's limit, " if status == BUSY else ""
    return ModelError(
        f"the model hub cannot be reached from here for {model!r} ({what}): {hint}allow "
        "access to it (HF_ENDPOINT names a mirror), or copy the model's folder to disk or s3:// "
        "and name that as `model`"
    )
