"""Model files: finds the files of a model in a local folder, an s3:// folder or on the hub.

Planning and rendering need only the small files: configuration, tokenizer, chat template. An
engine needs the weights too. This module copies only weights in s3:// folders: once per node,
under a lock. Copies are below GEMMA_BATCH_CACHE (default ~/.cache/gemma_batch). The name of a
copy's folder contains a digest of its files, so that a changed model is never mixed with an old
copy.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gemma_batch.errors import ModelError, StorageError
from gemma_batch.storage.fs import is_s3, local_path

SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", "preprocessor_config.json",
    "processor_config.json", "*.safetensors.index.json", "hf_quant_config.json",
)  # fmt: skip
NEEDED = ("config.json", "tokenizer.json")
WEIGHTS = "*.safetensors"
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.h5", "*.msgpack")
HUB_SECONDS = 10.0
CHUNK = 16 * 2**20
DOWNLOADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The small files of a model in the local folder `path`.

    `revision` is the commit on the hub, a digest for an s3:// folder, and None for a local folder.
    `weight_bytes` is the size of the safetensors files in bytes; None when there are none.
    """

    path: str
    revision: str | None
    weight_bytes: int | None


def model_files(model: str, revision: str | None = None) -> ModelFiles:
    """The small files of a model, on this machine; fetches them when they are elsewhere.

    Raises `ModelError`, with a sentence about what to do, and `StorageError`.
    """
    if _is_hub_id(model):
        found = _from_hub(model, revision)
    elif is_s3(model):
        objects, digest = _objects(model, revision)
        small = [one for one in objects if _matches(one[0], SMALL_FILES)]
        folder = _cached(model, digest, "small", small)
        weights = _weight_bytes((name, size) for name, size, _ in objects)
        found = ModelFiles(path=folder, revision=digest, weight_bytes=weights)
    else:
        folder = _folder(model, revision)
        sizes = ((p.name, p.stat().st_size) for p in Path(folder).iterdir() if p.is_file())
        found = ModelFiles(path=folder, revision=None, weight_bytes=_weight_bytes(sizes))
    for name in NEEDED:
        if not Path(found.path, name).is_file():
            raise ModelError(f"the model {model!r} has no {name!r}: is it a complete model folder?")
    return found


def fetch_weights(
    model: str, revision: str | None = None, *, weights: bool = True, streamed: bool = False
) -> str:
    """The name under which an engine on this node loads the model: a local folder or a hub id.

    An s3:// folder is first copied to this node. One process per node copies it while the other
    processes wait. The weights are not copied when the engine reads them from S3 (`streamed`) or
    needs no weights (`weights` is False: the engine makes up its weights). A hub id is returned
    unchanged. Raises `StorageError`, and `ModelError`, also when `weights` is True and the folder
    has no safetensors files.
    """
    if _is_hub_id(model):
        return model
    if not is_s3(model):
        folder = _folder(model, revision)
        if weights:
            _require_safetensors(model, [path.name for path in Path(folder).iterdir()])
        return folder
    objects, digest = _objects(model, revision)
    if weights:
        _require_safetensors(model, [name for name, _, _ in objects])
    kept = [one for one in objects if not _matches(one[0], OTHER_WEIGHTS)]
    copied = weights and not streamed
    if not copied:
        kept = [one for one in kept if not fnmatch(one[0], WEIGHTS)]
    return _cached(model, digest, "full" if copied else "bare", kept)


def _require_safetensors(model: str, names: list[str]) -> None:
    if any(fnmatch(name, WEIGHTS) for name in names):
        return
    others = sorted(name for name in names if _matches(name, OTHER_WEIGHTS))
    found = f"only {others[0]!r}" if others else "no weights at all"
    raise ModelError(
        f"the model {model!r} has no {WEIGHTS} files but {found}: *.bin, *.pt and *.pth are "
        "pickles, which can run any code, and are never loaded; convert the model to safetensors"
    )


def _is_hub_id(model: str) -> bool:
    local = "://" in model or model.startswith((".", "/", "~")) or Path(model).is_dir()
    return not local


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _weight_bytes(files: Iterable[tuple[str, int]]) -> int | None:
    return sum(size for name, size in files if fnmatch(name, WEIGHTS)) or None


def _folder(model: str, revision: str | None) -> str:
    _no_revision(model, revision)
    try:
        path = local_path(model)
    except ValueError as err:
        raise ModelError(f"model: {err}, or a hub id such as google/gemma-3-4b-it") from None
    if not Path(path).is_dir():
        raise ModelError(f"the model folder {model!r} does not exist on this machine")
    return path


def _no_revision(model: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelError(f"{model!r} is a folder and has no revisions: leave out {revision!r}")


def _objects(model: str, revision: str | None) -> tuple[list[tuple[str, int, str]], str]:
    """Name, bytes and URL of each file in the folder, and a digest that changes with any file."""
    from gemma_batch.storage.s3 import list_below

    _no_revision(model, revision)
    folder = model.rstrip("/")
    try:
        found = list_below(folder)
    except StorageError as err:
        raise ModelError(f"the model {model!r} cannot be read: {err}") from err
    files = sorted(one for one in found if "/" not in one[0].removeprefix(f"{folder}/"))
    if not files:
        raise ModelError(f"the model folder {model!r} does not exist or is empty")
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    return [(url.rsplit("/", 1)[-1], size, url) for url, size, _ in files], digest


def _cached(model: str, digest: str, part: str, files: list[tuple[str, int, str]]) -> str:
    """A local folder with the files. The folder has this name only when it is complete."""
    from filelock import FileLock

    root = Path(os.environ.get("GEMMA_BATCH_CACHE") or "~/.cache/gemma_batch").expanduser()
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")
    folder = root / "models" / f"{slug or 'model'}-{digest}-{part}"
    if folder.is_dir():
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _download(files, folder)
    except OSError as err:
        raise StorageError(
            f"the model {model!r} cannot be copied to {str(root)!r} ({err.strerror}): free some "
            "space or set GEMMA_BATCH_CACHE to another folder"
        ) from err
    return str(folder)


def _download(files: list[tuple[str, int, str]], folder: Path) -> None:
    # Files that an interrupted copy has finished stay. The folder gets its final name at the end.
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    missing = sum(size for name, size, _ in files if not (partial / name).exists())
    free = shutil.disk_usage(partial).free
    if missing > free:
        raise StorageError(
            f"{str(folder.parent)!r} has {free / 2**30:.1f} GiB free, the model's files take "
            f"{missing / 2**30:.1f} GiB: set GEMMA_BATCH_CACHE to a larger disk"
        )
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        list(pool.map(lambda one: _download_one(one[2], partial / one[0]), files))
    partial.rename(folder)


def _download_one(url: str, path: Path) -> None:
    from gemma_batch.storage.fs import open_source

    if path.exists():
        return
    temp = path.with_name(f"{path.name}.tmp")
    with open_source(url) as source, temp.open("wb") as file:
        while data := source.read(CHUNK):
            file.write(data)
    temp.rename(path)


def _from_hub(model: str, revision: str | None) -> ModelFiles:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    # Versions of the hub's client differ in the HTTP library that they are built on.
    bases = errors.HfHubHTTPError.__mro__
    http_error: Any = next(c for c in bases if c.__name__ == "HTTPError")
    options: dict[str, Any] = {"allow_patterns": list(SMALL_FILES), "etag_timeout": HUB_SECONDS}
    page = f"{_without_password(constants.ENDPOINT)}/{model}"
    try:
        try:
            info = HfApi().model_info(
                model, revision=revision, files_metadata=True, timeout=HUB_SECONDS
            )
        except (errors.GatedRepoError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except errors.RepositoryNotFoundError as err:
            raise ModelError(
                f"the model {model!r} does not exist on the hub, or is private: check the id "
                "(`gemma-batch models` lists the known ones), and set HF_TOKEN if it is yours"
            ) from err
        except (http_error, OSError) as err:
            return _from_hub_cache(model, revision, err)
        path = snapshot_download(model, revision=info.sha, **options)
    except errors.GatedRepoError as err:
        raise ModelError(
            f"the licence of {model!r} is not accepted by the account in use: accept it at "
            f"{page}, then set HF_TOKEN to a token of that account"
        ) from err
    except errors.RevisionNotFoundError as err:
        raise ModelError(f"the model {model!r} has no revision {revision!r}: see {page}") from err
    except errors.HFValidationError as err:
        raise ModelError(
            f"{model!r} is neither a hub id such as google/gemma-3-4b-it nor an existing folder"
        ) from err
    except (http_error, OSError) as err:
        raise _unreachable(model, err) from err
    sizes = [(file.rfilename, file.size or 0) for file in info.siblings or []]
    return ModelFiles(path=path, revision=info.sha, weight_bytes=_weight_bytes(sizes))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _from_hub_cache(model: str, revision: str | None, cause: Exception) -> ModelFiles:
    """The copy of the small files that an earlier download left on this machine."""
    from huggingface_hub import errors, snapshot_download

    try:
        path = snapshot_download(
            model, revision=revision, allow_patterns=list(SMALL_FILES), local_files_only=True
        )
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError, ValueError):
        raise _unreachable(model, cause) from cause
    files = [(file.name, file.stat().st_size) for file in Path(path).iterdir()]
    # The cache names a snapshot by its commit. Some or all of the weights may be missing.
    return ModelFiles(path=path, revision=Path(path).name, weight_bytes=_weight_bytes(files))


def _unreachable(model: str, cause: Exception) -> ModelError:
    return ModelError(
        f"the model hub cannot be reached from here for {model!r} ({type(cause).__name__}): allow "
        "access to it (HF_ENDPOINT names a mirror), or copy the model's folder to disk or s3:// "
        "and name that as `model`"
    )
