"""Model files: finds the files of a model in a local folder, an s3:// folder or on the hub.

Planning and rendering need only the small files: configuration, tokenizer, chat template. An
engine needs the weights too. Models on the hub go to the hub's cache (see `hub`). Models in s3://
folders are copied below GEMMA_BATCH_CACHE (default ~/.cache/gemma_batch), once per node, under a
lock. The name of a copy's folder contains a digest of its files, so that a changed model is never
mixed with an old copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from gemma_batch.errors import ModelError, StorageError
from gemma_batch.storage.fs import is_s3, local_path
from gemma_batch.storage.hub import HubSilent, ask_hub, hub_folder, unreachable
from gemma_batch.storage.model_digest import WEIGHTS, files_digest, weights_digest

SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", "preprocessor_config.json",
    "processor_config.json", "*.safetensors.index.json", "hf_quant_config.json",
)  # fmt: skip
NEEDED = ("config.json", "tokenizer.json")
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.h5", "*.msgpack")
CHUNK = 16 * 2**20
DOWNLOADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model as it was found when the job was planned. Its small files are in the folder `path`.

    `path` is on the machine that planned. `revision` is the commit on the hub, a digest for an
    s3:// folder, and None for a local folder. `identity` says for each of the three which model
    it is, and nothing else is loaded in its place. `digest` is of the JSON files and chat
    templates (`small_digest`). `weights` is the digest of the weights in a local folder, else
    None. `weight_bytes` is the size of the safetensors files in bytes; None when there are none.
    `names` are the files of a model on the hub; () where they are not known.
    """

    path: str
    revision: str | None
    identity: str
    digest: str
    weight_bytes: int | None
    weights: str | None = None
    names: tuple[str, ...] = ()


def model_files(model: str, revision: str | None = None) -> ModelFiles:
    """The small files of a model, on this machine; fetches them when they are elsewhere.

    Raises `ModelError`, with a sentence about what to do, and `StorageError`.
    """
    if is_hub_id(model):
        found = _from_hub(model, revision)
    elif is_s3(model):
        objects, digest = _objects(model, revision)
        small = [one for one in objects if _matches(one[0], SMALL_FILES)]
        folder = _cached(model, digest, "small", small)
        weights = _weight_bytes((name, size) for name, size, _ in objects)
        found = ModelFiles(
            path=folder,
            revision=digest,
            identity=digest,
            digest=small_digest(folder, digest),
            weight_bytes=weights,
        )
    else:
        found = _from_folder(_folder(model, revision))
    for name in NEEDED:
        if not Path(found.path, name).is_file():
            raise ModelError(f"the model {model!r} has no {name!r}: is it a complete model folder?")
    return found


def small_digest(folder: str, revision: str | None) -> str:
    """SHA-256 over the JSON files and chat templates of a model in this folder, in hex."""
    # The hub's cache fills with more files when an engine loads the weights.
    return files_digest(folder, None if revision is None else SMALL_FILES)


def fetch_weights(
    model: str,
    planned: ModelFiles | None = None,
    *,
    weights: bool = True,
    streamed: bool = False,
) -> str:
    """The local folder from which an engine on this node loads the model.

    A model on the hub or in an s3:// folder is first copied to this node. One process per node
    copies it while the other processes wait. The weights are not copied when the engine reads
    them from S3 (`streamed`) or needs no weights (`weights` is False: the engine makes up its
    weights).

    Raises `ModelError` when the model is not the one that was `planned`, and when `weights` is
    True and the folder has no safetensors files; `StorageError`.
    """
    # A folder of the plan that is missing on this node is no id on the hub.
    folder_planned = planned is not None and planned.revision is None
    if is_hub_id(model) and not folder_planned:
        return _hub_weights(model, planned, weights=weights)
    if not is_s3(model):
        folder = _folder(model, None)
        if weights:
            _require_safetensors(model, [path.name for path in Path(folder).iterdir()])
        check_unchanged(folder, planned)
        return folder
    objects, digest = _objects(model, None)
    _check_identity(model, digest, planned)
    if weights:
        _require_safetensors(model, [name for name, _, _ in objects])
    kept = [one for one in objects if not _matches(one[0], OTHER_WEIGHTS)]
    copied = weights and not streamed
    if not copied:
        kept = [one for one in kept if not fnmatch(one[0], WEIGHTS)]
    return _cached(model, digest, "full" if copied else "bare", kept)


def check_unchanged(model: str, planned: ModelFiles | None) -> None:
    """Raise `ModelError` when a local or s3:// folder no longer holds the model of the plan.

    Without a plan there is nothing to compare.
    """
    if planned is None:
        return
    if is_s3(model):
        _check_identity(model, _objects(model, None)[1], planned)
    else:
        _check_identity(model, _from_folder(model).identity, planned)


def _check_identity(model: str, identity: str, planned: ModelFiles | None) -> None:
    if planned is not None and planned.identity != identity:
        raise ModelError(
            f"the model {model!r} on {os.uname().nodename} is not the one that was planned (its "
            f"digest is {identity[:12]}, planned was {planned.identity[:12]}): it was changed "
            "since, or this node has another copy. Bring the planned model back, or start again "
            "with a new output.path"
        )


def _from_folder(folder: str) -> ModelFiles:
    sizes = ((p.name, p.stat().st_size) for p in Path(folder).iterdir() if p.is_file())
    weights = weights_digest(folder)
    digest = small_digest(folder, None)
    return ModelFiles(
        path=folder,
        revision=None,
        identity=hashlib.sha256(f"{digest} {weights}".encode()).hexdigest(),
        digest=digest,
        weight_bytes=_weight_bytes(sizes),
        weights=weights,
    )


def _from_hub(model: str, revision: str | None) -> ModelFiles:
    try:
        commit, files = ask_hub(model, revision)
    except HubSilent as err:
        return _from_hub_cache(model, revision, err.__cause__)
    small = [name for name, _ in files if _matches(name, SMALL_FILES)]
    if not small:
        raise ModelError(f"the model {model!r} has no {NEEDED[0]!r}: is it a complete model?")
    folder = hub_folder(model, commit, small)
    return ModelFiles(
        path=folder,
        revision=commit,
        identity=commit,
        digest=small_digest(folder, commit),
        weight_bytes=_weight_bytes(files),
        names=tuple(name for name, _ in files),
    )


def _from_hub_cache(model: str, revision: str | None, cause: BaseException | None) -> ModelFiles:
    """The copy of the small files that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, NEEDED[0], revision=revision)
    if not isinstance(found, str):
        raise unreachable(model, cause) from cause
    # The cache names a snapshot by its commit. Some or all of the weights may be missing.
    folder = Path(found).parent
    files = [(file.name, file.stat().st_size) for file in folder.iterdir()]
    return ModelFiles(
        path=str(folder),
        revision=folder.name,
        identity=folder.name,
        digest=small_digest(str(folder), folder.name),
        weight_bytes=_weight_bytes(files),
    )


def _hub_weights(model: str, planned: ModelFiles | None, *, weights: bool) -> str:
    names = list(planned.names) if planned is not None else []
    commit = planned.revision if planned is not None else None
    if not names or commit is None:  # planned without the hub, from a copy of some of its files
        try:
            commit, files = ask_hub(model, commit)
        except HubSilent as err:
            return _copied_weights(model, commit, err.__cause__, weights=weights)
        names = [name for name, _ in files]
    if weights:
        _require_safetensors(model, names)
    unwanted = OTHER_WEIGHTS if weights else (*OTHER_WEIGHTS, WEIGHTS)
    return hub_folder(model, commit, [name for name in names if not _matches(name, unwanted)])


def _copied_weights(
    model: str, commit: str | None, cause: BaseException | None, *, weights: bool
) -> str:
    """The folder of the hub's cache, when the hub is silent and the cache has all weights."""
    folder = _from_hub_cache(model, commit, cause).path
    index = Path(folder, "model.safetensors.index.json")
    needed = {"model.safetensors"}
    if index.is_file():
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if weights and not all(Path(folder, name).is_file() for name in needed):
        raise unreachable(model, cause) from cause
    return folder


def _require_safetensors(model: str, names: list[str]) -> None:
    if any(fnmatch(name, WEIGHTS) for name in names):
        return
    others = sorted(name for name in names if _matches(name, OTHER_WEIGHTS))
    found = f"only {others[0]!r}" if others else "no weights at all"
    raise ModelError(
        f"the model {model!r} has no {WEIGHTS} files but {found}: *.bin, *.pt and *.pth are "
        "pickles, which can run any code, and are never loaded; convert the model to safetensors"
    )


def is_hub_id(model: str) -> bool:
    """Whether `model` is an id on the hub, and neither a URL nor a folder on this machine."""
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
