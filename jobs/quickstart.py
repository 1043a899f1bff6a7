"""The quickstart: a small Gemma tells the language of real messages on this machine's CPU.

    make quickstart
    python -m jobs.quickstart --storage s3://BUCKET/PREFIX --address http://HEAD:8265

The second is what docker/compose.yaml runs: messages, model and answers in object storage, and
the job submitted to a Ray cluster.

Size: 3,000 messages, a model of a few million parameters (see jobs/language.yaml); about a minute
on 2 cores once things are installed. The answers are in .quickstart/; kill it and run it again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gemma_batch.storage.fs import open_store

HERE = Path(__file__).resolve().parent
SPEC, MESSAGES, MODEL = HERE / "language.yaml", HERE / "messages", HERE / "models/language-small"
FOLDER = Path(".quickstart")
EXPECTED = 0.9  # of the answers are right, or something on this machine computes wrong
SHOWN, WIDTH = 3, 70  # rows of each kind at the end, and characters of a message
Row = dict[str, Any]


def say(text: str = "") -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def messages() -> list[Row]:
    """All messages, each with its id and its language, in the order of the files."""
    tables = [pq.read_table(path) for path in sorted(MESSAGES.glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def first(rows: list[Row]) -> Path:
    """A folder with these rows alone."""
    file = FOLDER / f"messages-{len(rows)}" / "messages.parquet"
    if not file.exists():  # a run that goes on must find its input as it was
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file.with_suffix(".new"))
        file.with_suffix(".new").rename(file)
    return file.parent


def upload(storage: str, folders: Mapping[str, Path]) -> None:
    """Put the files of the folders below `storage`, in a bucket made where there is none."""
    from gemma_batch.storage.s3 import file_system

    bucket, fs = urlsplit(storage).netloc, file_system()
    if not fs.exists(bucket):
        fs.mkdir(bucket)
    store = open_store(storage)
    for name, folder in folders.items():
        say(f"putting {os.path.relpath(folder)}/ to {storage}/{name}/")
        for path in sorted(folder.iterdir()):
            store.put(f"{name}/{path.name}", path.read_bytes())


def table(output: str, folder: str) -> list[Row]:
    """The rows of `results` or `errors`. They are ordinary Parquet files."""
    store = open_store(output)
    files = [pq.read_table(pa.BufferReader(store.read(key))) for key in store.list(folder)]
    return [row for file in files for row in file.to_pylist()]


def score(asked: Iterable[Row], results: list[Row], errors: list[Row]) -> tuple[list[str], float]:
    """What to tell about the answers, and the share of the rows whose answer is right.

    A row that failed counts as wrong. Raises ValueError where a row is missing or there twice.
    """
    ids = sorted(row["id"] for row in asked)
    found = sorted(row["id"] for row in (*results, *errors))
    if found != ids:
        missing = sorted(set(ids) - set(found))
        raise ValueError(
            f"{len(ids):,} messages went in and {len(found):,} rows came out; "
            f"missing are {len(missing):,}: {', '.join(missing[:5])}"
        )
    results = sorted(results, key=lambda row: str(row["id"]))
    right = [row for row in results if row["answer"] == row["language"]]
    wrong = [row for row in results if row["answer"] != row["language"]]
    lines = ["truth  answer  message"]
    for row in (*right[:SHOWN], *wrong[:SHOWN]):
        text = " ".join(row["text"].split())
        text = text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
        lines.append(f"{row['language']:5}  {row['answer']:6}  {text}")
    share = len(right) / len(ids)
    failed = f"; {len(errors):,} failed" if errors else ""
    lines += ["", f"accuracy: {share:.1%} ({len(right):,} of {len(ids):,} are right{failed})"]
    return lines, share


def changes(asked: list[Row], options: argparse.Namespace) -> dict[str, str]:
    """The fields of the spec that these options change; what they need is put in its place."""
    folder = MESSAGES if options.rows is None else first(asked)
    if options.storage:
        storage = options.storage.rstrip("/")
        upload(storage, {"messages": folder, "model": MODEL})
        path, model, output = (f"{storage}/{name}" for name in ("messages", "model", "out"))
        return {"input.path": f"{path}/*.parquet", "model": model, "output.path": output}
    here = Path.cwd() == HERE.parent  # the spec's paths start there
    changed = {} if here and options.rows is None else {"input.path": f"{folder}/*.parquet"}
    return changed if here else {**changed, "model": str(MODEL)}


def show(asked: list[Row], output: str, *, expected: float) -> int:
    """Tell how many answers are right; the exit code."""
    try:
        lines, share = score(asked, table(output, "results"), table(output, "errors"))
    except ValueError as err:
        say(f"quickstart: {err}")
        return 1
    say()
    for line in lines:
        say(line)
    if share < expected:
        say(f"quickstart: {expected:.0%} were expected; something on this machine computes wrong")
        return 1
    return 0


def main() -> int:
    """Run the job and compare its answers with the truth; the exit code is the job's."""
    parser = argparse.ArgumentParser(description="Run the quickstart.")
    parser.add_argument("--rows", type=int, help="the first so many messages (default: all)")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run's output")
    parser.add_argument("--storage", help="an s3:// prefix for messages, model and answers")
    parser.add_argument("--address", help="submit to this Ray dashboard; needs --storage")
    options = parser.parse_args()
    if options.address and not options.storage:
        parser.error("--address needs --storage: the cluster cannot see this machine's files")
    if options.rows is not None and options.rows < 1:
        parser.error(f"--rows {options.rows} is not at least 1")
    job = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    everything = messages()
    asked = everything[: options.rows]
    changed = changes(asked, options)
    output = changed.get("output.path", job["output"]["path"])
    if options.fresh:
        shutil.rmtree(FOLDER / "out", ignore_errors=True)
    spec = os.path.relpath(SPEC)
    command = ["gemma-batch", "run", spec]
    if options.address:
        command = ["gemma-batch", "submit", spec, "--wait", "--address", options.address]
    command += [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]
    say(f"$ {' '.join(command)}")
    command[0] = str(Path(sys.executable).parent / command[0])
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130  # the job has said what there is to say
    if code:
        return code
    # Another model may be better or worse, and of a few messages many may be wrong by chance.
    known = "model" in changed or job["model"] == f"jobs/models/{MODEL.name}"
    expected = EXPECTED if known and len(asked) == len(everything) else 0
    code = show(asked, output, expected=expected)
    if code == 0 and not options.storage:
        say(
            f"\nThe job is {spec}. To make it yours, change its input, prompt, choice and model:"
            "\n    model: google/gemma-3-4b-it"
            "\nand, on a machine with a GPU, drop its `resources:` line."
            f"\nTo see how it survives: rm -r {output}; make quickstart; kill it half-way;"
            "\nand run it again."
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
