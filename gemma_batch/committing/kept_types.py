"""The types of kept columns as the first start settled them: one schema for all parts (driver).

The manifest of a run keeps them. A manifest of an older version does not: then a part that the run
has committed tells them, so that the other parts get the same schema.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pyarrow as pa

from gemma_batch.committing.manifest import Manifest
from gemma_batch.errors import OutputError
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import PartKey, read_schema
from gemma_batch.storage.readers.plain import plain_type

Types = dict[str, pa.DataType]


def pack_types(types: Mapping[str, pa.DataType]) -> str:
    """The types of columns as text, for the manifest."""
    return base64.b64encode(pa.schema(list(types.items())).serialize()).decode()


def unpack_types(text: str, output: str) -> Types:
    """The types that `pack_types` packed; {} for "". `output` is for the error.

    Raises `OutputError` when the text cannot be read.
    """
    if not text:
        return {}
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (ValueError, pa.ArrowException) as err:
        raise OutputError(f"the manifest of {output!r} has unreadable types: {err}") from err
    return {field.name: plain_type(field.type) for field in schema}


def kept_types(store: Store, manifest: Manifest, done: Mapping[PartKey, str]) -> Types:
    """The types of the kept columns, by the name in the input; {} when nothing settled them yet.

    `done` are the committed parts. Raises `OutputError` when a manifest or part cannot be read.
    """
    if manifest.kept or not done:
        return unpack_types(manifest.kept, store.url)
    schema = read_schema(store.open(next(iter(done.values()))))
    return {field.name: plain_type(field.type) for field in schema}
