"""The catalog is complete, consistent and helpful about wrong ids."""

from __future__ import annotations

import pickle

import pytest

from gemma_batch.errors import ModelError
from gemma_batch.family.catalog import find_model, load_catalog


def test_every_row_is_consistent() -> None:
    """Layers that own KV are layers, and parts are not larger than what they are parts of."""
    for card in load_catalog().values():
        sliding = card.layers - card.layers_full
        assert 0 < card.kv_layers_full <= card.layers_full <= card.layers
        assert 0 <= card.kv_layers_sliding <= sliding
        assert (card.sliding_window is None) == (sliding == 0)
        assert card.heads % card.kv_heads == 0
        assert card.tower_params >= 0
        assert card.embedding_params < card.active_params <= card.text_params
        assert card.licence in {"gemma", "apache-2.0"}
        assert card.modalities[0] == "text"
        assert card.source == "catalog"


def test_seventeen_models_and_their_variants() -> None:
    """The family is there; a variant names a row that exists and shares its shape."""
    catalog = load_catalog()
    assert sum(card.variant_of is None for card in catalog.values()) == 17
    for card in catalog.values():
        if card.variant_of:
            base = catalog[card.variant_of]
            assert (card.text_params, card.layers) == (base.text_params, base.layers)


def test_callers_cannot_spoil_the_catalog() -> None:
    """What `load_catalog` returns is the caller's own."""
    load_catalog().clear()
    assert find_model("google/gemma-3-4b-it").params == 4_300_079_472


def test_cards_can_be_pickled() -> None:
    """Cards cross process borders."""
    card = find_model("google/gemma-4-12B-it")
    assert pickle.loads(pickle.dumps(card)) == card


@pytest.mark.parametrize("id", ["google/gemma-3-8b-it", "google/gemma-3-8b", "gemma-3-8B-it"])
def test_gemma_3_8b_was_never_released(id: str) -> None:
    """The id that people expect is refused as such, with its neighbours in size."""
    with pytest.raises(ModelError, match="never released") as caught:
        find_model(id)
    for near in ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-4-E4B-it"):
        assert near in str(caught.value)


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("google/gemma-3-27-it", "google/gemma-3-27b-it"),
        ("gemma-3-27b-it", "google/gemma-3-27b-it"),
        ("google/Gemma-4-31b-it", "google/gemma-4-31B-it"),
        ("google/t5gemma-2b-2b-ul2-it", "encoder-decoder"),
        ("google/shieldgemma-2-4b-it", "ShieldGemma 2"),
        ("google/recurrentgemma-9b-it", "RecurrentGemma"),
        ("google/embeddinggemma-300m", "vectors"),
        ("google/gemma-4-31B-it-assistant", "drafter"),
        ("google/gemma-4-31B-it-qat-q4_0-gguf", "GGUF"),
        ("unsloth/gemma-3-4b-it-bnb-4bit", "bitsandbytes"),
        ("meta-llama/Llama-3.1-8B", "not a known Gemma"),
    ],
)
def test_a_wrong_id_is_explained(id: str, said: str) -> None:
    """The error names the nearest ids, or says why this one cannot work, and repeats the id."""
    with pytest.raises(ModelError, match=said) as caught:
        find_model(id)
    assert repr(id) in str(caught.value)
