"""Tokenizers: loading from a folder, and exactly one BOS."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from gemma_batch.errors import ModelError
from gemma_batch.prompts.tokens import Tokenizer


@pytest.mark.parametrize("text", ["", "Hi", "<bos>Hi", "<bos><bos>Hi", "a<bos>b", "<bos>"])
def test_exactly_one_bos(tokenizer: Tokenizer, text: str) -> None:
    """Whether the text has none, one or more: one comes first and no other follows."""
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1


def test_batches_equal_single_texts(tokenizer: Tokenizer) -> None:
    """A text's ids do not depend on what is tokenized with it."""
    texts = ["a", "", "<eos> b\n\n\nc", "漢字 é"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_loading_twice_is_free_until_files_change(folder: Path, tmp_path: Path) -> None:
    """The same object while the files are the same; a new one after a change."""
    copy = shutil.copytree(folder, tmp_path / "model")
    first = Tokenizer.from_folder(copy)
    assert Tokenizer.from_folder(str(copy)) is first
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    changed = Tokenizer.from_folder(copy)
    assert changed.chat.render([{"role": "user", "content": "x"}]) == "x!"
    assert pickle.loads(pickle.dumps(changed)) is changed


def test_the_ways_to_keep_a_chat_template(folders: dict[str, Path], tmp_path: Path) -> None:
    """A list of named ones, the file of older processors, none at all."""
    copy = Path(shutil.copytree(folders["gemma3"], tmp_path / "model"))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d{{ messages }}"}]
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    assert Tokenizer.from_folder(copy).chat.source == "d{{ messages }}"
    del config["chat_template"]
    config["bos_token"] = {"content": "<bos>", "lstrip": False}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    plain = Tokenizer.from_folder(copy)
    assert plain.chat.render([{"role": "user", "content": "x"}]) == "x"
    assert plain.control_pattern.search("<start_of_turn>")
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "p"}))
    assert Tokenizer.from_folder(copy).chat.source == "p"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "cannot be read as a tokenizer"),
        ("tokenizer_config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", '{"bos_token": "<s>"}', "no BOS token '<s>'"),
    ],
)
def test_broken_folders(
    folder: Path, tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    """The message names the file and what is wrong with it."""
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ModelError, match=said):
        Tokenizer.from_folder(copy)
