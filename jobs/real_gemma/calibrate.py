"""Calibrate: the `logit_bias` of `job.yaml`, from messages without their languages.

    python -m jobs.real_gemma.calibrate MODEL MESSAGES.parquet --rows 120

Runs on the laptop, with transformers; about a second of a core for each message. A base model
prefers some labels whatever the message says: after the examples of `job.yaml` it says English,
Russian or Turkish to most messages. The mean of a label's log probability over many messages
measures how much, and the bias takes this mean away again ("batch calibration", Zhou et al. 2024,
arXiv:2309.17249). The method supposes that no language is much more frequent than the others.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tokenizers

from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.spec import JobSpec
from jobs.real_gemma.languages import LABELS

SPEC = Path(__file__).with_name("job.yaml")


def first_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of the first token of each label. Raises ValueError when two labels share one."""
    found = {label: tokenizer.encode(label)[1] for label in LABELS}
    if len(set(found.values())) < len(found):
        raise ValueError("two labels begin with the same token: a bias cannot tell them apart")
    return found


def other_beginnings(folder: Path, tokens: Iterable[int]) -> list[int]:
    """The ids of all other tokens that a label can begin with, such as a space alone.

    Without a bias against them the model takes such a token in place of a label's own first token,
    and spells the label, or another one, in letters and bytes.
    """
    names = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = {label.replace(" ", "\u2581")[:n] for label in LABELS for n in range(1, len(label) + 1)}
    found = {names.token_to_id(text) for text in texts | {"<0x20>"}}
    return sorted(one for one in found - set(tokens) if one is not None)


def mean_log_probabilities(
    model: Any, tokenizer: Tokenizer, template: str, texts: Iterable[str], tokens: list[int]
) -> list[float]:
    """The mean log probability of each of `tokens`, among these tokens, behind the prompts."""
    import torch

    before, _, after = template.partition("{{ text }}")
    shared = tokenizer.encode(before.removesuffix(" "))
    total, count = torch.zeros(len(tokens)), 0
    with torch.no_grad():
        start = model(torch.tensor([shared]), logits_to_keep=1).past_key_values
        for text in texts:
            ids = tokenizer.encode(before + text + after)
            if ids[: len(shared)] != shared:
                raise ValueError(f"the prompt of {text!r} does not begin with the tokens of others")
            out = model(
                torch.tensor([ids[len(shared) :]]),
                past_key_values=copy.deepcopy(start),
                logits_to_keep=1,
            )
            total += out.logits[0, -1, tokens].float().log_softmax(-1)
            count += 1
    return [float(one) / count for one in total]


def main() -> None:
    """Print the lines of `logit_bias` for job.yaml."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("messages", type=Path)
    parser.add_argument("--rows", type=int, default=120, help="so many, from the end")
    options = parser.parse_args()
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = Tokenizer.from_folder(options.model)
    texts = pq.read_table(options.messages, columns=["text"])["text"].to_pylist()[-options.rows :]
    template = JobSpec.load(SPEC).prompt.user or ""
    tokens = first_tokens(tokenizer)
    means = mean_log_probabilities(model.eval(), tokenizer, template, texts, list(tokens.values()))
    middle = sum(means) / len(means)
    for (label, token), mean in zip(tokens.items(), means, strict=True):
        print(f"    {token}: {middle - mean:.2f}  #{label}")
    for token in other_beginnings(options.model, tokens.values()):
        print(f"    {token}: -100")


if __name__ == "__main__":
    main()
