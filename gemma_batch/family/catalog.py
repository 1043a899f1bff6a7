"""The catalog of known Gemma models, for plans that must not need the network.

Data in catalog.json. It is a fallback and a planning table: where a checkpoint's config.json is at
hand, `card_from_config` wins. Ids outside the catalog are refused with the nearest ones.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from gemma_batch.errors import ModelError
from gemma_batch.family.card import ModelCard
from gemma_batch.family.geometry import refusal

# Asked for often, in the belief that it exists between 4b and 12b.
_NEVER_RELEASED = {
    "gemma-3-8b": (
        "google/gemma-3-4b-it, google/gemma-3-12b-it, google/gemma-4-E4B-it (8.0B with its "
        "per-layer embeddings) and google/gemma-4-12B-it"
    )
}


@cache
def _cards() -> MappingProxyType[str, ModelCard]:
    text = resources.files("gemma_batch.family").joinpath("catalog.json").read_text("utf-8")
    cards: dict[str, ModelCard] = {}
    for row in json.loads(text)["models"]:
        variants: dict[str, dict[str, Any]] = row.pop("variants", {})
        row["modalities"] = tuple(row["modalities"])
        cards[row["id"]] = ModelCard(**row, source="catalog")
        for id, changes in variants.items():
            changed = {**row, **changes, "id": id, "variant_of": row["id"]}
            cards[id] = ModelCard(**changed, source="catalog")
    return MappingProxyType(cards)


def load_catalog() -> dict[str, ModelCard]:
    """Every known model by id. A variant (`variant_of`) shares the geometry of another row."""
    return dict(_cards())


def find_model(id: str) -> ModelCard:
    """The card of a known id.

    Raises `ModelError` saying why the id cannot be used, or naming the nearest known ids.
    """
    cards = _cards()
    if id in cards:
        return cards[id]
    for name, near_size in _NEVER_RELEASED.items():
        if id.rpartition("/")[2].lower() in (name, f"{name}-it", f"{name}-pt"):
            raise ModelError(f"{id!r} was never released; near that size there are {near_size}")
    if why := refusal(id):
        raise ModelError(f"{id!r} cannot be used: {why}")
    near = _nearest(id, list(cards))
    hint = f"the nearest are {', '.join(near)}" if near else "list the known ones with `models`"
    raise ModelError(
        f"{id!r} is not a known Gemma model; {hint}. A local or s3:// folder with a config.json "
        "works too"
    )


def _nearest(id: str, known: list[str]) -> list[str]:
    by_name = {name.rpartition("/")[2].lower(): name for name in known}
    matches = difflib.get_close_matches(id.rpartition("/")[2].lower(), by_name, n=3, cutoff=0.6)
    return [by_name[match] for match in matches]
