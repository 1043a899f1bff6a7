"""Tokens: the tokenizer of a model; turns text into token ids with exactly one BOS.

This module uses the `tokenizers` library on the files of a Hugging Face folder. It does not use
transformers, because importing transformers takes seconds. It knows nothing about rows. The
trade-off: it reads only two things from tokenizer_config.json, the names of special tokens and the
chat template. Gemma needs no more.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from gemma_batch.errors import ModelError
from gemma_batch.prompts.chat import BOS, EOS, ChatTemplate
from gemma_batch.prompts.control import NAMED, control_pattern, control_tokens

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")


class TextTokenizer(Protocol):
    """Everything that a renderer asks of a tokenizer.

    `Tokenizer` is the one of a model, `GuessedTokenizer` stands in for it in a plan.
    """

    chat: ChatTemplate
    control_pattern: re.Pattern[str]
    longest_token: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same as `encode` for many texts."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The start and the end of each token of `text`, in characters, without BOS."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The files that a tokenizer is made of, as they travel to other machines.

    `digest` stands for all of `files` (name -> content). `where` is the folder that they come from.
    """

    digest: str
    where: str = field(compare=False)
    files: dict[str, bytes] = field(compare=False, repr=False)


class Tokenizer:
    """The tokenizer of a model; make it with `from_folder` or `from_files`.

    A tokenizer never changes, so threads can share it. It is pickled as the path of its folder.
    `files` are the contents of those in `FILES` that the model has, `where` names their place in
    messages. Raises `ModelError` when files are missing or broken.
    """

    def __init__(self, files: Mapping[str, bytes], where: str) -> None:
        self.folder = Path(where)
        if "tokenizer.json" not in files:
            raise ModelError(f"{where!r} has no tokenizer.json, which belongs beside config.json")
        try:
            raw = files["tokenizer.json"].decode()
            self._tokens = tokenizers.Tokenizer.from_str(raw)
            described = json.loads(raw)
        except Exception as err:  # for a broken file the library raises a bare Exception
            path = str(self.folder / "tokenizer.json")
            raise ModelError(f"{path!r} cannot be read as a tokenizer: {err}") from None
        self._tokens.no_padding()
        self._tokens.no_truncation()
        config = _read_json(files, where, "tokenizer_config.json")
        named = {name: text for name in NAMED if (text := _token_text(config.get(name)))}
        bos = named.setdefault("bos_token", BOS)
        eos = named.setdefault("eos_token", EOS)
        if (found := self._tokens.token_to_id(bos)) is None:
            raise ModelError(f"the tokenizer in {where!r} has no BOS token {bos!r}")
        self.bos_id: int = found
        self.eos_id: int | None = self._tokens.token_to_id(eos)
        source = _chat_template(files, where, config)
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

    @classmethod
    def from_files(cls, files: TokenizerFiles) -> Tokenizer:
        """The tokenizer of files that `read_files` has read elsewhere; equal ones are loaded once.

        It cannot be pickled where `files.where` does not exist. Raises `ModelError`.
        """
        return _made(files)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_folder, (str(self.folder),)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt text: BOS first and once, control tokens as single tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same as `encode` for many texts; releases the GIL and uses several threads."""
        encoded = self._tokens.encode_batch_fast(texts, add_special_tokens=False)
        return [self._one_bos(encoding.ids) for encoding in encoded]

    def end_of_turn(self) -> tuple[str, int] | None:
        """The first control token behind an answer, as text and id; None when there is none."""
        match = self.control_pattern.search(self.chat.after_answer())
        token = match.group() if match else ""
        found = self._tokens.token_to_id(token)
        return None if found is None else (token, found)

    def vocabulary(self) -> tuple[list[str], list[int]]:
        """The text of each token, by its id, and the ids of the tokens that end an answer."""
        known = self._tokens.get_vocab(with_added_tokens=True)
        words = [""] * (1 + max(known.values()))
        for text, number in known.items():
            words[number] = text
        ends = {self.eos_id, (self.end_of_turn() or ("", None))[1]}
        return words, sorted(number for number in ends if number is not None)

    def token_id(self, text: str) -> int | None:
        """The id of the token that is written `text`; None when there is none."""
        found: int | None = self._tokens.token_to_id(text)
        return found

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
    return Tokenizer(read_files(folder).files, str(folder))


@functools.lru_cache(maxsize=4)
def _made(files: TokenizerFiles) -> Tokenizer:
    return Tokenizer(files.files, files.where)


def read_files(folder: str | Path) -> TokenizerFiles:
    """Read the files of a folder that a tokenizer is made of; a missing one is left out."""
    files: dict[str, bytes] = {}
    digest = hashlib.sha256()
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            files[name] = Path(folder, name).read_bytes()
            digest.update(f"{name} {len(files[name])} ".encode() + files[name])
    return TokenizerFiles(digest.hexdigest(), str(folder), files)


def _chat_template(files: Mapping[str, bytes], where: str, config: dict[str, Any]) -> str | None:
    """The source of the chat template; the file chat_template.jinja wins, as in transformers."""
    if (jinja := files.get("chat_template.jinja")) is not None:
        return jinja.decode()
    for found in (config, _read_json(files, where, "chat_template.json")):
        template = found.get("chat_template")
        if isinstance(template, list):  # several templates, each with a name
            by_name = {item.get("name"): item.get("template") for item in template}
            template = by_name.get("default")
        if isinstance(template, str):
            return template
    return None


def _read_json(files: Mapping[str, bytes], where: str, name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        data = json.loads(files[name])
    except ValueError as err:
        raise ModelError(f"{str(Path(where, name))!r} is not valid JSON: {err}") from None
    return data if isinstance(data, dict) else {}


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
