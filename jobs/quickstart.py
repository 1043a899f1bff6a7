"""The quickstart: a tiny Gemma answers real documents on this machine's CPU.

    make quickstart
    python -m jobs.quickstart --storage s3://BUCKET/PREFIX --address http://HEAD:8265

The second is what docker/compose.yaml runs: documents, model and answers in object storage, and
the job submitted to a Ray cluster.

Size: 3,000 documents, a model of a million random parameters; about a minute on 2 cores once
things are installed. Everything it makes is in .quickstart/; kill it and run it again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from gemma_batch.storage.fs import open_store
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


def prepare(rows: int) -> None:
    """Model, documents and spec; what is there already is left alone."""
    FOLDER.mkdir(exist_ok=True)
    docs, model = FOLDER / "docs", FOLDER / "model"
    if not (FOLDER / "job.yaml").exists():
        say(f"writing {rows:,} docstrings of Python's standard library to {docs}/")
        shutil.rmtree(docs, ignore_errors=True)
        write_docs(docs, rows=rows, shards=SHARDS)
        say(f"building a Gemma 3 of a million random parameters in {model}/")
        from gemma_batch.family.tiny import build_tiny_gemma

        shutil.rmtree(model, ignore_errors=True)
        build_tiny_gemma(model, texts=[doc["doc"] for doc in collect(ROWS)])
        # Last, so that a start that was killed half-way begins this part anew.
        (FOLDER / "job.yaml").write_text(SPEC)


def upload(storage: str) -> Path:
    """Documents and model below `storage`, in a bucket made where there is none; their spec."""
    from gemma_batch.storage.s3 import file_system

    bucket, fs = urlsplit(storage).netloc, file_system()
    if not fs.exists(bucket):
        fs.mkdir(bucket)
    store = open_store(storage)
    for name in ("docs", "model"):
        say(f"putting {FOLDER / name}/ to {storage}/{name}/")
        for path in sorted((FOLDER / name).iterdir()):
            store.put(f"{name}/{path.name}", path.read_bytes())
    spec = FOLDER / "job-s3.yaml"
    spec.write_text(SPEC.replace(str(FOLDER), storage))
    return spec


def main() -> int:
    """Prepare and run; the exit code is the job's."""
    parser = argparse.ArgumentParser(description="Run the quickstart.")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="documents, where none are there yet"
    )
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run's output")
    parser.add_argument("--storage", help="an s3:// prefix for documents, model and answers")
    parser.add_argument("--address", help="submit to this Ray dashboard; needs --storage")
    options = parser.parse_args()
    if options.address and not options.storage:
        parser.error("--address needs --storage: the cluster cannot see this machine's files")
    if options.rows < SHARDS:
        parser.error(f"--rows {options.rows} is too few: there are {SHARDS} files of documents")
    if options.fresh:
        shutil.rmtree(FOLDER / "out", ignore_errors=True)
    prepare(options.rows)
    spec = upload(options.storage.rstrip("/")) if options.storage else FOLDER / "job.yaml"
    command = ["gemma-batch", "run", str(spec)]
    if options.address:
        command = ["gemma-batch", "submit", str(spec), "--wait", "--address", options.address]
    say(f"$ {' '.join(command)}")
    command[0] = str(Path(sys.executable).parent / command[0])
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130  # the job has said what there is to say
    if code == 0 and not options.storage:
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
