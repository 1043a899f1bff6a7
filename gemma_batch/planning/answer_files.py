"""The files and classes that a spec names for `answer` and `tools` (driver, laptop).

After this, a spec names no file and no class: it can travel to another machine, and the manifest
holds what the run was asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec
from gemma_batch.spec.answer import schema_of_class
from gemma_batch.storage.fs import is_s3

MAX_BYTES = 2**20  # of a file
CLASS = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def with_definitions(spec: JobSpec) -> JobSpec:
    """The spec with the schema and the tool definitions that its files and classes hold.

    Raises `SpecError` for a file that cannot be read or is no JSON, and for a class that cannot be
    imported or has no JSON schema.
    """
    data = spec.to_dict()
    if isinstance(spec.answer.schema, str):
        data["answer"]["schema"] = _schema(spec.answer.schema)
    if spec.tools is not None and isinstance(spec.tools.definitions, str):
        data["tools"]["definitions"] = _read(spec.tools.definitions, "tools.definitions")
    return spec if data == spec.to_dict() else JobSpec.from_dict(data)


def _schema(name: str) -> dict[str, Any]:
    match = CLASS.fullmatch(name)
    found = _of_class(name, *match.groups()) if match else _read(name, "answer.schema")
    if not isinstance(found, dict):
        raise SpecError(
            f"answer.schema: {name!r} holds {type(found).__name__}, and a JSON schema is an object"
        )
    return found


def _of_class(name: str, module: str, path: str) -> dict[str, Any]:
    """The schema of a class of Pydantic. Its module may stand in the current folder."""
    found: Any = _module(name, module)
    for part in path.split("."):
        if (found := getattr(found, part, None)) is None:
            raise SpecError(f"answer.schema: {name!r}: the module {module!r} has no {part!r}")
    if not isinstance(found, type) or not issubclass(found, BaseModel):
        raise SpecError(f"answer.schema: {name!r} is no class of Pydantic (a BaseModel)")
    try:
        return schema_of_class(found)
    except ValueError as err:
        raise SpecError(f"answer.schema: {err}") from None


def _module(name: str, module: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        missing = err.name or module
        if missing == module or module.startswith(f"{missing}."):
            raise SpecError(
                f"answer.schema: {name!r}: there is no module {missing!r}, neither installed nor "
                f"in {here!r}"
            ) from None
        raise SpecError(
            f"answer.schema: {name!r}: the module {module!r} imports {missing!r}, which is not "
            "installed here"
        ) from None
    except Exception as err:
        raise SpecError(
            f"answer.schema: {name!r}: the import of {module!r} failed: {type(err).__name__}: {err}"
        ) from None
    finally:
        sys.path.remove(here)


def _read(path: str, field: str) -> Any:
    if is_s3(path):
        raise SpecError(f"{field}: {path!r}: only a file on this machine can be read here")
    try:
        if (size := Path(path).stat().st_size) > MAX_BYTES:
            raise SpecError(f"{field}: {path!r} has {size:,} bytes, and {MAX_BYTES:,} are the most")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as err:
        raise SpecError(f"{field}: {path!r} cannot be read: {err}") from None
