"""Measure: how often a model in a folder is right, as it answers freely and as it must choose.

The weights are those of the file, rounded to bfloat16; the arithmetic is float32, as in vLLM on a
CPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs.train_small.labels import LANGUAGES
from jobs.train_small.messages import Message
from jobs.train_small.samples import Encoder

ROWS = 64  # prompts in one batch
BOUNDS = (15, 20, 30, 50, 100, 201)  # characters; classes of length


@dataclass(frozen=True, slots=True)
class Answers:
    """Per message: the label of the highest probability, and the text of a free greedy answer."""

    chosen: list[str]
    free: list[str]


def load(folder: Path) -> Any:
    """The model in a folder, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    left = {kind: names for kind, names in found.items() if names}
    if left:
        raise ValueError(f"the weights in {str(folder)!r} do not fit the configuration: {left}")
    return model.eval()


def answer(folder: Path, texts: list[str]) -> Answers:
    """What the model in a folder says about each text, with transformers."""
    import torch
    from transformers import AutoTokenizer

    model, encoder = load(folder), Encoder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = encoder.prompts(texts)
    chosen, free = [""] * len(texts), [""] * len(texts)
    for group in _groups(prompts):
        width = max(len(prompts[i]) for i in group)
        pads = [width - len(prompts[i]) for i in group]
        ids = torch.tensor([[0] * pad + prompts[i] for pad, i in zip(pads, group, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=3,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        labels = out.logits[0][:, torch.tensor(encoder.labels)].argmax(-1).tolist()
        said = tokenizer.batch_decode(out.sequences[:, width:], skip_special_tokens=True)
        for i, label, text in zip(group, labels, said, strict=True):
            chosen[i], free[i] = LANGUAGES[label], text
    return Answers(chosen, free)


def _groups(prompts: list[list[int]]) -> Iterator[list[int]]:
    """Indices of prompts of similar length, so that there is little padding."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), ROWS):
        yield order[start : start + ROWS]


def accuracy(messages: list[Message], answers: list[str]) -> float:
    """The share of messages whose answer is their language."""
    right = sum(one.language == said for one, said in zip(messages, answers, strict=True))
    return round(right / len(messages), 4)


def by_language(messages: list[Message], answers: list[str]) -> dict[str, dict[str, float]]:
    """Language -> number of messages and accuracy."""
    return _shares(messages, answers, lambda one: one.language)


def by_length(messages: list[Message], answers: list[str]) -> dict[str, dict[str, float]]:
    """Class of length in characters, such as "20-29" -> number of messages and accuracy."""
    names = [f"{low}-{high - 1}" for low, high in pairwise(BOUNDS)]

    def name(one: Message) -> str:
        return names[sum(len(one.text) >= bound for bound in BOUNDS[1:])]

    found = _shares(messages, answers, name)
    return {name: found[name] for name in names if name in found}


def _shares(messages: list[Message], answers: list[str], name: Any) -> dict[str, dict[str, float]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for one, said in zip(messages, answers, strict=True):
        groups[name(one)].append(one.language == said)
    return {
        key: {"messages": len(group), "accuracy": round(sum(group) / len(group), 4)}
        for key, group in sorted(groups.items())
    }
