"""Makes the local paths of a spec absolute, so that they name one place (driver, laptop).

A Ray worker runs in another folder than the driver, and often as another user. There a relative
path or `~` names another place, and the relative path of a model looks like a hub id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import is_s3, local_path
from gemma_batch.storage.models import is_hub_id

LOCAL = ("./", "../", "~/", "file://")  # how a text in engine_args shows that it is a path
# Engine arguments whose value is always a path.
PATH_ARGS = ("download_dir", "hf_config_path", "tally")


def absolute(spec: JobSpec) -> JobSpec:
    """The same spec with absolute local paths; locations in s3:// and hub ids stay as they are.

    A model is a path when such a folder exists on this machine, or when it looks like a path.
    """
    data = spec.to_dict()
    given = data["input"]["path"]
    data["input"]["path"] = _place(given) if isinstance(given, str) else [_place(p) for p in given]
    data["output"]["path"] = _place(data["output"]["path"])
    for holder in (data, *data.get("routes", ())):
        if holder.get("model") is not None and not is_hub_id(holder["model"]):
            holder["model"] = _place(holder["model"])
        resources = holder.get("resources", {})
        if resources.get("engine_args"):
            resources["engine_args"] = _args(resources["engine_args"])
    return JobSpec.from_dict(data)


def _place(path: str) -> str:
    if is_s3(path):
        return path
    try:
        return local_path(path)
    except ValueError:
        return path  # an unknown scheme; whoever opens the location refuses it with a sentence


def _args(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _args(one, key) for key, one in value.items()}
    if not isinstance(value, str) or is_s3(value):
        return value
    is_folder = name == "model" and Path(value).is_dir()  # the draft model of speculative_config
    return _place(value) if name in PATH_ARGS or is_folder or value.startswith(LOCAL) else value
