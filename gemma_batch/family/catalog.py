"""The catalog of known Gemma models, so that a plan does not need the network.

The data is in catalog.json. The catalog is a fallback: when the config.json of a checkpoint can be
read, `card_from_config` wins. An id outside the catalog is refused, with the nearest known ids.
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

# People often ask for this size between 4b and 12b, which does not exist.
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
        cards[row["id"]] = _card(row)
        for id, changes in variants.items():
            changed = {**row, **changes, "id": id, "variant_of": row["id"]}
            cards[id] = _card(changed)
    return MappingProxyType(cards)


def _card(row: dict[str, Any]) -> ModelCard:
    found: dict[str, Any] = dict(row)
    if row["generation"] == "gemma4" and row.get("chat_template", True):
        found = {"calls": "gemma4", "thinks": True, **found}
    return ModelCard(**found, source="catalog")


def load_catalog() -> dict[str, ModelCard]:
    """Every known model by id. A variant has the geometry of the model in its `variant_of`."""
    return dict(_cards())


def find_model(id: str) -> ModelCard:
    """The card of a known id.

    Raises `ModelError`, with the reason why the id cannot be used, or with the nearest known ids.
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
