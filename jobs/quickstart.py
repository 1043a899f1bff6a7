"""The quickstart: a tiny Gemma answers real documents on this machine's CPU.

    make quickstart

Size: 3,000 documents, a model of a million random parameters; about a minute on 2 cores once
things are installed. Everything it makes is in .quickstart/; kill it and run it again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from jobs.stdlib_docs import collect, write_docs

FOLDER = Path(".quickstart")
ROWS, SHARDS = 3000, 4

SPEC = """\
# The quickstart's job; the same file with another `model:` runs on a GPU cluster.
name: quickstart
input:
  path: .quickstart/docs/*.parquet      # or s3://bucket/prefix/*.parquet
  id: id
prompt:
  user: "Say in one sentence what this does:\\n\\n{{ doc }}"
  overlong: truncate_end                # cut the end of a document that does not fit
model: .quickstart/model                # <- the line to change: google/gemma-3-4b-it, say
sampling: {temperature: 0, max_tokens: 32}
output:
  path: .quickstart/out                 # or s3://bucket/prefix
  keep: [module, kind, name]
resources: {device: cpu, max_model_len: 1024}
policy: {unit_rows: 128}                # commit often, to be killed half-way; else about a minute
"""


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def prepare() -> None:
    """Model, documents and spec; what is there already is left alone."""
    FOLDER.mkdir(exist_ok=True)
    docs, model = FOLDER / "docs", FOLDER / "model"
    if not (FOLDER / "job.yaml").exists():
        say(f"writing {ROWS:,} docstrings of Python's standard library to {docs}/")
        shutil.rmtree(docs, ignore_errors=True)
        write_docs(docs, rows=ROWS, shards=SHARDS)
        say(f"building a Gemma 3 of a million random parameters in {model}/")
        from gemma_batch.family.tiny import build_tiny_gemma

        shutil.rmtree(model, ignore_errors=True)
        build_tiny_gemma(model, texts=[doc["doc"] for doc in collect(ROWS)])
        # Last, so that a start that was killed half-way begins this part anew.
        (FOLDER / "job.yaml").write_text(SPEC)


def main() -> int:
    """Prepare and run; the exit code is the job's."""
    parser = argparse.ArgumentParser(description="Run the quickstart.")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run's output")
    if parser.parse_args().fresh:
        shutil.rmtree(FOLDER / "out", ignore_errors=True)
    prepare()
    command = ["gemma-batch", "run", ".quickstart/job.yaml"]
    say(f"$ {' '.join(command)}")
    command[0] = str(Path(sys.executable).parent / command[0])
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130  # the job has said what there is to say
    if code == 0:
        say(
            "\nThe answers are noise: the model is tiny and random, it shows the way and not the"
            "\nwit. For real ones change one line in .quickstart/job.yaml:"
            "\n    model: google/gemma-3-4b-it"
            "\nand, on a machine with a GPU, drop its `resources:` line."
            "\nTo see how it survives: rm -r .quickstart/out; make quickstart; kill it half-way;"
            "\nand run it again."
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
