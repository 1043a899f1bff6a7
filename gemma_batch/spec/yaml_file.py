"""The file of a spec: its text, from this machine or from an object store (driver, laptop)."""

from __future__ import annotations

import importlib
import os
from typing import Any

from gemma_batch.errors import GemmaBatchError, SpecError
from gemma_batch.spec.yaml_text import MAX_CHARS

# Only storage knows file systems, and storage knows the spec. So it is named here, not imported.
OPENER = "gemma_batch.storage.fs", "open_source"
MOST_BYTES = 4 * MAX_CHARS  # no character of UTF-8 has more


def read_text(path: str) -> str:
    """The text of the spec at a local path or in s3://. Raises `SpecError`."""
    what = f"cannot read the spec {path!r}"
    if os.path.isdir(path):
        raise SpecError(f"{what}: it is a folder, name the job's YAML file")
    try:
        with _opened(path) as file:
            data: bytes = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{what}: there is no such file") from None
    except OSError as err:
        raise SpecError(f"{what}: {err.strerror or err}") from None
    except (GemmaBatchError, ValueError) as err:
        raise SpecError(f"{what}: {err}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{what}: it is no text in UTF-8") from None


def _opened(path: str) -> Any:
    if "://" not in path:
        return open(path, "rb")
    module, name = OPENER
    return getattr(importlib.import_module(module), name)(path)
