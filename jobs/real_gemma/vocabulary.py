"""Vocabulary: Gemma's tokenizer.json for Hugging Face, from the vocabulary of a GGUF file.

Runs on the laptop. A GGUF file has no merges. They follow from the scores in the way in which
transformers makes them of Google's own file (`generate_merges`), and come out the same, pair by
pair: `digest` compares them with Google's tokenizer.json.

Three things differ from that file on purpose. Every control token is special, the image tokens and
the thousands of `<unused>` ones included, so that no document can produce one. llama.cpp writes the
tokens of several spaces with real spaces; here they have U+2581 again, without which they would
never be used. And the end of an answer is `<eos>`, as it is a base model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

# SHA-256 by `digest` of the vocabulary and merges in the tokenizer.json that Google publishes with
# its Gemma 3 models (262,144 tokens, 514,906 merges).
GOOGLES = "f1c63863982011c371fcd2b6c25237a46f973ae484f0f18f3e944ec30a439376"
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # gguf.TokenType
# llama.cpp takes these for text of users, but they are control tokens of the family.
MEDIA = {"[multimodal]", "<start_of_image>", "<end_of_image>"}
NAMED = {"pad": 0, "eos": 1, "bos": 2, "unk": 3, "mask": 4}


def vocabulary(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """The token texts with their ids. Raises ValueError for a type that Gemma does not have."""
    if unknown := set(types) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE}:
        raise ValueError(f"the GGUF file has tokens of the types {sorted(unknown)}, not Gemma's")
    texts = [
        text.replace(" ", SPACE) if kind == USER_DEFINED else text
        for text, kind in zip(tokens, types, strict=True)
    ]
    vocab = {text: number for number, text in enumerate(texts)}
    if len(vocab) != len(texts):
        raise ValueError(f"{len(texts) - len(vocab)} tokens of the GGUF file have another's text")
    return vocab


def merges(
    vocab: dict[str, int], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding, the most urgent first.

    Each way to cut a token into two tokens is a merge. Its urgency is the score of the token; the
    score of a token defined by users is 0, the highest (a GGUF file has -1000 there).
    """
    found: list[tuple[float, str, str]] = []
    for (text, _), kind, score in zip(vocab.items(), types, scores, strict=True):
        if kind in (CONTROL, UNKNOWN, BYTE):
            continue
        urgency = 0.0 if kind == USER_DEFINED else score
        cuts = [(text[:place], text[place:]) for place in range(1, len(text))]
        cuts = [(left, right) for left, right in cuts if left in vocab and right in vocab]
        cuts.sort(key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
        found += [(urgency, left, right) for left, right in cuts]
    found.sort(key=lambda one: (one[0], len(one[1]), len(one[2])), reverse=True)
    return [(left, right) for _, left, right in found]


def digest(vocab: dict[str, int], pairs: Iterable[Sequence[str]]) -> str:
    """A SHA-256 of a vocabulary, in the order of the ids, and of its merges, in their order."""
    found = hashlib.sha256()
    for text in sorted(vocab, key=vocab.__getitem__):
        found.update(text.encode() + b"\0")
    for left, right in pairs:
        found.update(f"{left}\0{right}\0\0".encode())
    return found.hexdigest()


def tokenizer_json(
    vocab: dict[str, int], types: Sequence[int], pairs: list[tuple[str, str]]
) -> dict[str, Any]:
    """The content of a tokenizer.json that puts one BOS, with byte fallback."""
    bos, a, b = (
        {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != USER_DEFINED or text in MEDIA,
            }
            for (text, number), kind in zip(vocab.items(), types, strict=True)
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, a],
            "pair": [bos, a, b],
            "special_tokens": {
                "<bos>": {"id": "<bos>", "ids": [vocab["<bos>"]], "tokens": ["<bos>"]}
            },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in pairs],
        },
    }


def tokenizer_config(max_position: int) -> dict[str, Any]:
    """The content of tokenizer_config.json. A base model has no chat template."""
    return {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_position,
        **{f"{name}_token": f"<{name}>" for name in NAMED},
    }
