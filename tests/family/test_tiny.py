"""The tiny models load everywhere a real Gemma does and behave like a model."""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.family.card import card_from_config
from gemma_batch.family.tiny import build_tiny_gemma, train_tokenizer

SEEN = 12
ANSWER_TOKENS = 48


def texts(count: int = 100) -> list[str]:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(2000)]
    return [" ".join(rng.choices(words, k=100)) for _ in range(count)]


@pytest.fixture(scope="module", params=["gemma3", "gemma4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / request.param
    return build_tiny_gemma(path, generation=request.param, texts=texts())


def test_layout(folder: Path) -> None:
    """The files of a Hugging Face folder; the architecture and size that were promised."""
    names = {path.name for path in folder.iterdir()}
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert wanted | {"model.safetensors"} <= names
    config = json.loads((folder / "config.json").read_text())
    card = card_from_config(str(folder), config)
    assert card.generation == folder.name
    assert (card.layers, card.kv_layers_sliding, card.kv_layers_full) == (6, 5, 1)
    assert 500_000 < card.params < 2_000_000
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(4 * card.params, rel=0.01)
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    assert [token["content"] for token in added[:4]] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert config["eos_token_id"] == [1, 6]


def test_transformers_loads_it_and_its_answers_differ(folder: Path) -> None:
    """No weight is missing or left over; answers vary with the prompt and some end early."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)  # a model this small only waits for more
    answers = []
    for text in texts()[:SEEN]:
        messages = [{"role": "user", "content": text}]
        given: Any = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt"
        )
        ids = given["input_ids"]
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answers.append(out[0][ids.shape[1] :].tolist())
    assert len({tuple(answer) for answer in answers}) >= SEEN - 2
    assert 1 <= sum(len(answer) < ANSWER_TOKENS for answer in answers) < SEEN
    assert sum(len(set(answer)) for answer in answers) > 0.5 * sum(map(len, answers))
    text = tokenizer.decode([i for answer in answers for i in answer], skip_special_tokens=True)
    assert "\ufffd" not in text


def test_the_tokenizer_loses_nothing(folder: Path) -> None:
    """Byte fallback: any text comes back from its ids."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (" a  b\n\n\n\n\nc ", "漢字 😀", "<b>x</b>", "\t\r\n\x00"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    """A model is a function of its arguments; another seed is another model."""

    def digest(name: str, seed: int) -> dict[str, str]:
        path = build_tiny_gemma(tmp_path / name, texts=texts(20), vocab=1024, seed=seed)
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir()}

    first = digest("a", 0)
    assert first == digest("b", 0)
    other = digest("c", 1)
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_rare_characters_are_not_chosen_by_chance() -> None:
    """More characters than can be tokens, all equally frequent: the tokenizer stays the same."""
    text = "".join(map(chr, range(0x4E00, 0x5200)))
    first, *others = [train_tokenizer("gemma3", [text], 1024) for _ in range(4)]
    assert all(other == first for other in others)
    assert "\u4e00" in first["model"]["vocab"]
    assert "\u51ff" not in first["model"]["vocab"]


def test_heads_can_be_chosen(tmp_path: Path) -> None:
    """For tensor parallelism with more than one KV head."""
    path = build_tiny_gemma(tmp_path, texts=texts(20), vocab=1024, heads=8, kv_heads=2, head_dim=32)
    card = card_from_config("x", json.loads((path / "config.json").read_text()))
    assert (card.heads, card.kv_heads, card.head_dim) == (8, 2, 32)


def test_building_is_quick_however_much_text_there_is(tmp_path: Path) -> None:
    """Training looks at a bounded sample."""

    def endless() -> Any:
        while True:
            yield from texts(200)

    started = time.process_time()
    build_tiny_gemma(tmp_path, texts=endless())
    assert time.process_time() - started < 10
