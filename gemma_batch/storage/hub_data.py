"""Hub data: data sets of the Hugging Face hub as input files, `hf://datasets/owner/name/path`.

A listing settles the commit of the data set and puts it into the URL of each file. A commit never
changes, so size and etag of such a file are asked once per process. Access is by HF_TOKEN, and
HF_ENDPOINT names a mirror.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from gemma_batch.errors import InputError, StorageError
from gemma_batch.storage.hub import HUB_SECONDS, patiently, request_errors
from gemma_batch.storage.interfaces import InputFile, Source

SCHEME = "hf://datasets/"
PLACE = re.compile(r"hf://datasets/([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?(?:/(.*))?")
ABOUT = {"README.md", "LICENSE", "dataset_infos.json"}  # at the top of a data set, about it
READ_SECONDS = 120.0


class Place(NamedTuple):
    """A data set, its revision ("" for the newest) and a path in it."""

    name: str
    revision: str
    path: str

    def url(self, path: str) -> str:
        """The URL of a file of the same data set and revision."""
        return f"{SCHEME}{self.name}@{self.revision}/{path}"


def is_hub(url: str) -> bool:
    """Whether the location is on the Hugging Face hub."""
    return url.startswith("hf://")


def place_of(url: str) -> Place:
    """The parts of a URL. Raises `InputError` when it names no data set."""
    found = PLACE.fullmatch(url)
    if found is None:
        raise InputError(
            f"{url!r} names no data set of the hub: use hf://datasets/owner/name, with @revision "
            "behind the name and a path behind it if you like"
        )
    return Place(found[1], found[2] or "", (found[3] or "").strip("/"))


def expand_hub(url: str) -> list[InputFile]:
    """The files that `url` names, at one commit: a file, a folder with all below it, or a glob.

    Raises `InputError` when there are none, or the hub does not give them out.
    """
    from fsspec.utils import glob_translate
    from huggingface_hub import HfApi

    api, place = HfApi(), place_of(url)
    info = _ask(
        url,
        lambda: api.repo_info(
            place.name, repo_type="dataset", revision=place.revision or None, timeout=HUB_SECONDS
        ),
    )
    place = place._replace(revision=str(info.sha))
    tree = _ask(
        url,
        lambda: list(
            api.list_repo_tree(
                place.name, recursive=True, revision=place.revision, repo_type="dataset"
            )
        ),
    )
    pattern = re.compile(glob_translate(place.path)) if place.path else None
    files = [
        InputFile(place.url(one.path), one.size, one.blob_id)
        for one in tree
        if hasattr(one, "blob_id") and _wanted(one.path, place.path, pattern)
    ]
    if not files:
        raise InputError(f"input.path {url!r} matches no files of the data set: check the path")
    return files


def _wanted(path: str, asked: str, pattern: re.Pattern[str] | None) -> bool:
    if path == asked:
        return True
    below = path.removeprefix(f"{asked}/") if asked and path.startswith(f"{asked}/") else path
    if asked and below == path and not (pattern is not None and pattern.match(path)):
        return False
    hidden = any(part.startswith(("_", ".")) for part in below.split("/"))
    return not hidden and path not in ABOUT


@functools.lru_cache(maxsize=2**14)
def stat_hub(url: str) -> InputFile:
    """Size and etag of a file. Raises FileNotFoundError, `StorageError`, `InputError`."""
    from huggingface_hub import HfApi

    place = place_of(url)
    found = _ask(
        url,
        lambda: HfApi().get_paths_info(
            place.name, place.path, revision=place.revision or None, repo_type="dataset"
        ),
    )
    for one in found:
        if hasattr(one, "blob_id"):
            return InputFile(url, one.size, one.blob_id)
    raise FileNotFoundError(url)


def hub_source(url: str) -> Source:
    """A file, opened to read. Raises FileNotFoundError, `StorageError`, `InputError`."""
    from huggingface_hub import hf_hub_url, utils

    tools: Any = utils
    place = place_of(url)
    where = hf_hub_url(place.name, place.path, repo_type="dataset", revision=place.revision or None)

    def fetch(start: int, length: int) -> bytes:
        def get() -> bytes:
            headers = {**tools.build_hf_headers(), "Range": f"bytes={start}-{start + length - 1}"}
            answer = tools.get_session().get(
                where, headers=headers, timeout=READ_SECONDS, follow_redirects=True
            )
            tools.hf_raise_for_status(answer)
            data: bytes = answer.content
            return data if len(data) <= length else data[start : start + length]

        data: bytes = _ask(url, get)
        return data

    return Source(url, stat_hub(url).size, fetch)


def _ask(url: str, work: Any) -> Any:
    from huggingface_hub import errors

    try:
        return patiently(work)
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as err:
        raise InputError(
            f"the data set of {url!r} does not exist on the hub, or is not given out: check the "
            "name, accept its conditions on its page, and set HF_TOKEN on every node"
        ) from err
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as err:
        raise InputError(f"the hub has no {url!r}: check the revision and the path") from err
    except errors.HFValidationError as err:
        raise InputError(f"{url!r} names no data set of the hub: {err}") from err
    except request_errors() as err:
        raise StorageError(f"the hub does not give {url!r} ({type(err).__name__}: {err})") from err
