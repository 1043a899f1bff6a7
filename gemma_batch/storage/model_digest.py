"""Model digest: tells whether a model folder still holds the same model (driver, GPU actor).

Two checkpoints of one training run have the same names, sizes and safetensors headers, so the
digest looks at the weights themselves:

- Folders of up to `WHOLE` bytes of weights are read whole.
- Of larger ones the digest takes the names, sizes and headers, the first bytes of each tensor and
  `BLOCK` bytes out of every `STRIDE`. Training moves numbers all over a tensor, so no two
  checkpoints agree in all of these places. A 50 GB model costs 14,000 small reads, less than a
  second on a local disk.

The digest takes no modification times: a copy of the folder on another machine is the same model,
and a run may go on with the copy. One kind of change it can miss: a few rows of one tensor of a
large model, changed alone, such as the embeddings of a few added tokens. Give such a model a
folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from gemma_batch.errors import ModelError

WEIGHTS = "*.safetensors"
WHOLE = 2**30  # bytes: about a second of reading
BLOCK, STRIDE = 4096, 4 * 2**20  # bytes
READERS = 16
HEADER_LENGTH = 8  # a safetensors file begins with the length of its header: 8 bytes, little-endian
MOST_HEADER = 100 * 2**20  # the limit of the safetensors format


def files_digest(folder: str, patterns: Iterable[str] | None = None) -> str:
    """SHA-256 over the JSON files and chat templates of a model folder, in hex.

    `patterns` say which of them count (default: all).
    """
    digest = hashlib.sha256()
    path = Path(folder)
    for file in sorted(path.glob("*.json")) + sorted(path.glob("*.jinja")):
        counts = patterns is None or any(fnmatch(file.name, pattern) for pattern in patterns)
        if counts and not file.name.endswith(".index.json"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def weights_digest(folder: str) -> str | None:
    """SHA-256 in hex that changes with the weights in a model folder; None without weights.

    Raises `ModelError` when a file of weights cannot be read.
    """
    files = sorted(path for path in Path(folder).iterdir() if fnmatch(path.name, WEIGHTS))
    if not files:
        return None
    digest = hashlib.sha256()
    try:
        whole = sum(file.stat().st_size for file in files) <= WHOLE
        with ThreadPoolExecutor(READERS) as pool:
            for file in files:
                size = file.stat().st_size
                digest.update(json.dumps([file.name, size]).encode())
                for part in _parts(file, size, pool, whole=whole):
                    digest.update(part)
    except OSError as err:
        where = err.filename or folder
        raise ModelError(f"the weights in {where!r} cannot be read: {err.strerror}") from err
    return digest.hexdigest()


def _parts(file: Path, size: int, pool: ThreadPoolExecutor, *, whole: bool) -> Iterable[bytes]:
    """Hashes of the parts of a file that count, in order."""
    handle = os.open(file, os.O_RDONLY)
    try:
        if whole:
            spans = [(start, STRIDE) for start in range(0, size, STRIDE)]
        else:
            end, tensors = _header(handle)
            starts = {*tensors, *range(end, size, STRIDE), max(end, size - BLOCK)}
            spans = [(0, end), *((start, BLOCK) for start in sorted(starts))]
        return list(pool.map(lambda span: _hash(handle, *span), spans))
    finally:
        os.close(handle)


def _hash(handle: int, start: int, length: int) -> bytes:
    return hashlib.sha256(os.pread(handle, length, start)).digest()


def _header(handle: int) -> tuple[int, list[int]]:
    """Where a safetensors header ends and each tensor begins, in bytes.

    Of a file that is none, only the first bytes count as a header; vLLM will refuse to load it.
    """
    length = int.from_bytes(os.pread(handle, HEADER_LENGTH, 0), "little")
    if length > MOST_HEADER:
        return HEADER_LENGTH, []
    end = HEADER_LENGTH + length
    try:
        tensors = json.loads(os.pread(handle, length, HEADER_LENGTH))
        return end, [end + int(t["data_offsets"][0]) for t in tensors.values() if "dtype" in t]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return end, []
