"""Tokens: the tokenizer of a model; turns text into token ids with exactly one BOS.

This module uses the `tokenizers` library on the files of a Hugging Face folder. It does not use
transformers, because importing transformers takes seconds. It knows nothing about rows. The
trade-off: it reads only two things from tokenizer_config.json, the names of special tokens and the
chat template. Gemma needs no more.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import tokenizers

from gemma_batch.errors import ModelError
from gemma_batch.prompts.chat import BOS, EOS, ChatTemplate
from gemma_batch.prompts.control import NAMED, control_pattern, control_tokens

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")


class Tokenizer:
    """The tokenizer of a model; make it with `from_folder`.

    A tokenizer never changes, so threads can share it. It is pickled as the path of its folder.
    Raises `ModelError` when files are missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "tokenizer.json"
        try:
            raw = path.read_text(encoding="utf-8")
            self._tokens = tokenizers.Tokenizer.from_str(raw)
            described = json.loads(raw)
        except FileNotFoundError:
            raise ModelError(
                f"{str(folder)!r} has no tokenizer.json, which belongs beside config.json"
            ) from None
        except Exception as err:  # for a broken file the library raises a bare Exception
            raise ModelError(f"{str(path)!r} cannot be read as a tokenizer: {err}") from None
        self._tokens.no_padding()
        self._tokens.no_truncation()
        config = _read_json(folder / "tokenizer_config.json")
        named = {name: text for name in NAMED if (text := _token_text(config.get(name)))}
        bos = named.setdefault("bos_token", BOS)
        eos = named.setdefault("eos_token", EOS)
        if (found := self._tokens.token_to_id(bos)) is None:
            raise ModelError(f"the tokenizer in {str(folder)!r} has no BOS token {bos!r}")
        self.bos_id: int = found
        source = _chat_template(folder, config)
        self.chat = ChatTemplate(source, bos, eos)
        controls = control_tokens(described.get("added_tokens", ()), named.values(), source)
        ids = (self._tokens.token_to_id(token) for token in controls)
        self.control_ids: frozenset[int] = frozenset(i for i in ids if i is not None)
        self.control_pattern: re.Pattern[str] = control_pattern(controls)
        # Gemma's normaliser keeps the number of characters. A text of n characters therefore has
        # at least n / longest_token tokens.
        self.longest_token: int = max(map(len, self._tokens.get_vocab(with_added_tokens=True)))

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Load the tokenizer of a folder; while its files do not change, it is loaded only once.

        Raises `ModelError` when files are missing or broken.
        """
        folder = Path(path).resolve()
        stamps = tuple(
            (folder / name).stat().st_mtime_ns if (folder / name).exists() else 0 for name in FILES
        )
        return _load(folder, stamps)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_folder, (str(self.folder),)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt text: BOS first and once, control tokens as single tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same as `encode` for many texts; releases the GIL and uses several threads."""
        encoded = self._tokens.encode_batch_fast(texts, add_special_tokens=False)
        return [self._one_bos(encoding.ids) for encoding in encoded]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The start and the end of each token of `text`, in characters, without BOS."""
        return self._tokens.encode(text, add_special_tokens=False).offsets

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self.bos_id
        if ids and ids[0] == bos and ids.count(bos) == 1:
            return ids
        return [bos, *(i for i in ids if i != bos)]


@functools.lru_cache(maxsize=8)
def _load(folder: Path, stamps: tuple[int, ...]) -> Tokenizer:
    return Tokenizer(folder)


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The source of the chat template; the file chat_template.jinja wins, as in transformers."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    for found in (config, _read_json(folder / "chat_template.json")):
        template = found.get("chat_template")
        if isinstance(template, list):  # several templates, each with a name
            by_name = {item.get("name"): item.get("template") for item in template}
            template = by_name.get("default")
        if isinstance(template, str):
            return template
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as err:
        raise ModelError(f"{str(path)!r} is not valid JSON: {err}") from None
    return data if isinstance(data, dict) else {}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
