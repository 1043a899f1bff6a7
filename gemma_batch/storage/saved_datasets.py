"""Saved data sets: folders that Hugging Face's `save_to_disk` wrote (driver, laptop).

Such a folder holds Arrow streams, the list of them in `state.json`, and files of the library for
its own purposes. A `DatasetDict` holds such a folder for each split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from gemma_batch.errors import InputError
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.text import opened, reading

STATE, SPLITS = "state.json", "dataset_dict.json"
ABOUT = {STATE, SPLITS, "dataset_info.json"}


class Saved(NamedTuple):
    """The files with rows, and sentences for people about the others."""

    files: list[InputFile]
    notes: list[str]


def saved_data(files: Sequence[InputFile]) -> Saved:
    """The files without those that only describe a saved data set or are copies of its rows.

    Reads the `state.json` of each saved data set. Raises `InputError` when a data set is not whole.
    """
    folders: dict[str, dict[str, InputFile]] = {}
    for file in files:
        folder, _, name = file.url.rpartition("/")
        folders.setdefault(folder, {})[name] = file
    dropped: set[str] = set()
    splits, copies = [], 0
    for folder, names in folders.items():
        if STATE not in names or not any(name.endswith(".arrow") for name in names):
            continue
        listed = _listed(names[STATE])
        if listed is None:
            continue
        if missing := sorted(listed - names.keys()):
            raise InputError(
                f"the data set in {folder!r} lacks {missing[0]!r}, which its {STATE} names: copy "
                "the whole folder"
            )
        splits.append(folder)
        others = {name for name in names if name.endswith(".arrow")} - listed
        copies += len(others)
        dropped |= {f"{folder}/{name}" for name in others | (ABOUT & names.keys())}
    if splits:
        dropped |= {file.url for file in files if file.url.endswith(f"/{SPLITS}")}
    notes = []
    if len(splits) > 1:
        named = ", ".join(repr(folder.rpartition("/")[2]) for folder in sorted(splits)[:8])
        notes.append(
            f"input.path holds {len(splits):,} saved data sets or splits ({named}): all are read"
        )
    if copies:
        notes.append(
            f"{copies:,} Arrow files beside saved data sets are not in their {STATE} (copies that "
            "the library keeps): they are left out"
        )
    return Saved([file for file in files if file.url not in dropped], notes)


def _listed(state: InputFile) -> set[str] | None:
    """The names of the files that a `state.json` lists; None when it is no such file."""
    with reading(state.url), opened(state.url, expected=state.size) as stream:
        data = stream.read()
    try:
        found: Any = json.loads(data)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("_data_files"), list):
        return None
    if found.get("_indices_data_files") or found.get("_indices_files"):
        raise InputError(
            f"the data set of {state.url!r} picks its rows by an index: save it again after "
            "flatten_indices()"
        )
    return {str(one["filename"]) for one in found["_data_files"] if isinstance(one, dict)}
