"""Cards made from config.json agree with the catalog and with the transformers classes."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

import pytest

from gemma_batch.errors import ModelError
from gemma_batch.family.card import card_from_config
from gemma_batch.family.catalog import load_catalog
from gemma_batch.family.geometry import KINDS

KNOWN = sorted(id for id, card in load_catalog().items() if card.variant_of is None)
# Where a card from a config and one from the catalog may differ: terms, and rounded tower sizes.
NOT_GEOMETRY = {"calls", "thinks", "params", "source", "gated", "note", "min_vllm", "min_vram_gib"}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096}


@pytest.mark.parametrize("id", KNOWN)
def test_config_gives_the_geometry_of_the_catalog(
    id: str, configs: dict[str, dict[str, Any]]
) -> None:
    """Every size counted from a published config equals the catalog's, to the last parameter."""
    got, expected = asdict(card_from_config(id, configs[id])), asdict(load_catalog()[id])
    different = {k for k in expected if k not in NOT_GEOMETRY and expected[k] != got[k]}
    assert different == set()
    assert got["params"] == pytest.approx(expected["params"], rel=0.02)


@pytest.mark.parametrize("model_type", sorted(KINDS))
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    """A field that config.json leaves out has the value transformers gives it."""
    from transformers import CONFIG_MAPPING

    kind = KINDS[model_type]
    config = CONFIG_MAPPING[model_type]()
    text = config.get_text_config().to_dict()
    ours = {**kind.defaults, "intermediate_size": text["intermediate_size"]}
    if model_type == "gemma4_unified":
        assert ours.pop("hidden_size_per_layer_input") == 0
    assert {k: v for k, v in ours.items() if k in text} == {k: text[k] for k in ours if k in text}
    missing = {k for k in ours if k not in text}
    assert missing <= {"vocab_size_per_layer_input", "enable_moe_block"}


@pytest.mark.parametrize(
    "id",
    [
        "google/gemma-2b-it",
        "google/gemma-2-9b-it",
        "google/gemma-3-1b-it",
        "google/gemma-3-4b-it",
        "google/gemma-3n-E2B-it",
        "google/gemma-4-E2B-it",
        "google/gemma-4-12B-it",
        "google/gemma-4-26B-A4B-it",
        "google/gemma-4-31B-it",
    ],
)
def test_parameters_are_those_of_the_transformers_class(
    id: str, configs: dict[str, dict[str, Any]]
) -> None:
    """The arithmetic counts as many parameters as the model built on the meta device has."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    raw = copy.deepcopy(configs[id])
    config = CONFIG_MAPPING[raw["model_type"]](**raw)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config.get_text_config())  # type: ignore[no-untyped-call]
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert card_from_config(id, raw).text_params == expected


@pytest.mark.parametrize("id", ["google/gemma-3-4b-it", "google/gemma-3-27b-it"])
def test_vision_tower_of_gemma_3_is_counted_exactly(
    id: str, configs: dict[str, dict[str, Any]]
) -> None:
    """SigLIP and the projector add up to the published total."""
    assert card_from_config(id, configs[id]).params == load_catalog()[id].params


@pytest.mark.parametrize("id", KNOWN)
def test_config_saved_by_transformers_gives_the_same_card(
    id: str, configs: dict[str, dict[str, Any]]
) -> None:
    """The long form that transformers writes (per_layer_config and all) means the same."""
    from transformers import CONFIG_MAPPING

    raw = configs[id]
    saved = json.loads(CONFIG_MAPPING[raw["model_type"]](**copy.deepcopy(raw)).to_json_string())
    got, expected = asdict(card_from_config(id, saved)), asdict(card_from_config(id, raw))
    assert {k: v for k, v in got.items() if k != "params"} == {
        k: v for k, v in expected.items() if k != "params"
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LLAMA, "llama"),
        ({"model_type": "t5gemma"}, "encoder-decoder"),
        ({"model_type": "recurrent_gemma"}, "RecurrentGemma"),
        ({"architectures": ["ShieldGemma2ForImageClassification"]}, "ShieldGemma 2"),
        ({"model_type": "gemma3_text", "architectures": ["Gemma3TextModel"]}, "EmbeddingGemma"),
        ({"model_type": "gemma2", "architectures": ["Gemma2ForTokenClassification"]}, "generate"),
        ({"model_type": "gemma4_assistant"}, "drafter"),
        ({"model_type": "paligemma"}, "PaliGemma"),
        ({}, "nothing"),
        ({"model_type": "gemma2", "hidden_size": "big"}, "hidden_size"),
        ({"model_type": "gemma2", "num_hidden_layers": 0}, "without layers"),
        ({"model_type": "gemma2", "num_hidden_layers": 3, "layer_types": ["x"]}, "layer_types"),
        (
            {"model_type": "gemma", "quantization_config": {"quant_method": "bitsandbytes"}},
            "bitsandbytes",
        ),
        ({"model_type": "gemma", "quantization_config": {"quant_method": "gguf"}}, "GGUF"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(config: dict[str, Any], said: str) -> None:
    """A model that vLLM could not answer with is refused by name and reason."""
    with pytest.raises(ModelError, match=said) as caught:
        card_from_config("some/model", config)
    assert "'some/model'" in str(caught.value)


def test_weight_bytes_settle_the_size_of_a_multimodal_checkpoint(
    configs: dict[str, dict[str, Any]],
) -> None:
    """Files on disk win over arithmetic for the towers, and never shrink the language model."""
    id = "google/gemma-3n-E2B-it"
    card = card_from_config(id, configs[id], weight_bytes=2 * 5_439_438_272)
    assert card.params == 5_439_438_272
    assert card_from_config(id, configs[id], weight_bytes=10).params == card.text_params
    wide = {**configs[id], "dtype": "float32"}
    assert card_from_config(id, wide, weight_bytes=4 * 5_439_438_272).params == 5_439_438_272


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8"}, ("fp8", 8)),
        ({"quant_method": "awq", "bits": 4}, ("awq", 4)),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
            },
            ("compressed-tensors", 8),
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("modelopt", 4)),
        ({"quant_method": "odd"}, ("odd", None)),
    ],
)
def test_quantization_is_read_from_the_config(
    quantization: dict[str, Any], expected: tuple[str, int], configs: dict[str, dict[str, Any]]
) -> None:
    """Method and bits come from quantization_config, whichever tool wrote it."""
    raw = {**configs["google/gemma-3-1b-it"], "quantization_config": quantization}
    card = card_from_config("x", raw)
    assert (card.quantization, card.weight_bits) == expected


def test_a_text_only_folder_has_one_modality(configs: dict[str, dict[str, Any]]) -> None:
    """Modalities follow from the towers that the config describes."""
    assert card_from_config("x", configs["google/gemma-3-1b-it"]).modalities == ("text",)
    audio_less = {**configs["google/gemma-4-E2B-it"], "audio_config": None}
    assert card_from_config("x", audio_less).modalities == ("text", "image", "video")
