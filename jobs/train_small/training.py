"""Training: fits the weights of a small model to messages, and writes them as bfloat16.

The loss is on answers only. Besides the true place of the answer, each token of a message is asked
for the language too: the language of a message's beginning is the language of the message. This
makes one message worth many, and training several times shorter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.train_small.messages import Message
from jobs.train_small.samples import Batch, Encoder, batches
from jobs.train_small.sizes import Size

THREADS = 1  # more threads are little quicker with matrices so small, and wait for each other
WARMUP = 100  # steps
EARLY, END = 0.3, 0.1  # weights of the loss at the message's tokens, and at the end of the turn
SKIPPED = 2  # tokens at the start of a message that are not asked for its language
WEIGHT_DECAY = 0.1
SAID = 100  # steps between two lines about the progress


def train(
    folder: Path, size: Size, messages: list[Message], *, seed: int, say: Callable[[str], None]
) -> float:
    """Train a model for the files in `folder` and write its weights there; the seconds it took.

    Equal arguments give equal weights on one machine. On other machines sums are rounded in other
    ways, so that other weights come out, which are equally good.
    """
    import torch
    from transformers import AutoConfig, Gemma3ForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    encoder = Encoder(folder)
    model = Gemma3ForCausalLM(AutoConfig.from_pretrained(folder)).float()
    loss_of = _Loss(model, encoder)
    optimizer = _optimizer(model, size.learning_rate)
    started, seen, right = time.monotonic(), 0, 0
    drawn = batches(messages, encoder, count=size.messages, tokens=size.batch_tokens, seed=seed)
    for step, batch in enumerate(drawn, start=1):
        rate = size.learning_rate * min(1.0, step / WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * seen / size.messages)) / 2
        loss, correct = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += len(batch.ids)
        right += correct
        if step % SAID == 0:
            seconds = time.monotonic() - started
            say(
                f"{seen:,} of {size.messages:,} messages, {right / seen:.3f} right, {seconds:.0f} s"
            )
    _save(model, folder)
    return time.monotonic() - started


class _Loss:
    """The loss of a batch, and how many of its messages the model gets right."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self.model, self.encoder = model, encoder

    def __call__(self, batch: Batch) -> tuple[Any, int]:
        import torch
        from torch.nn.functional import cross_entropy

        ids, ends = torch.tensor(batch.ids), torch.tensor(batch.ends)
        labels, rows = torch.tensor(batch.labels), torch.arange(len(batch.ids))
        tokens = torch.tensor(self.encoder.labels)
        # Padding comes last, and no token sees a later one: there is no need of a mask.
        states = self.model.model(input_ids=ids).last_hidden_state
        words = self.model.lm_head.weight.T
        answers = states[rows, ends] @ words
        loss = cross_entropy(answers, tokens[labels])
        stops = torch.full_like(labels, self.encoder.end)
        loss = loss + END * cross_entropy(states[rows, ends + 1] @ words, stops)
        places = torch.arange(ids.shape[1])[None]
        early = (places >= len(self.encoder.before) + SKIPPED) & (places < ends[:, None])
        guesses = states[early] @ words[:, tokens]
        loss = loss + EARLY * cross_entropy(guesses, labels[:, None].expand_as(early)[early])
        return loss, int((answers.argmax(-1) == tokens[labels]).sum())


def _optimizer(model: Any, rate: float) -> Any:
    import torch

    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": norms, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def _save(model: Any, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    path = folder / "model.safetensors"
    save_file(weights, str(path), metadata={"format": "pt"})
    path.chmod(0o644)  # as other files; it is written for its owner alone
