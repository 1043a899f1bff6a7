"""The files that a spec's `answer` and `tools` name, read into the spec (driver, laptop).

After this, a spec names no file and no class: it can travel to another machine, and the manifest
holds what the run was asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec


def with_definitions(spec: JobSpec) -> JobSpec:
    """The spec with the schema and the tool definitions that its files hold.

    Raises `SpecError` for a file that cannot be read or is no JSON.
    """
    data = spec.to_dict()
    if isinstance(spec.answer.schema, str):
        data["answer"]["schema"] = _read(spec.answer.schema, "answer.schema")
    if spec.tools is not None and isinstance(spec.tools.definitions, str):
        data["tools"]["definitions"] = _read(spec.tools.definitions, "tools.definitions")
    return spec if data == spec.to_dict() else JobSpec.from_dict(data)


def _read(path: str, field: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as err:
        raise SpecError(f"{field}: {path!r} cannot be read: {err}") from None
