"""A reading task computes on the cores that it asked Ray for."""

from __future__ import annotations

import os
import subprocess
import sys

# In a process of its own, because the tokenizers library keeps its threads once it has them.
PROGRAM = """
import os, sys, time
import pyarrow as pa
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.reading.cores import cores

def threads():
    return len(os.listdir("/proc/self/task"))

tokenizer = Tokenizer.from_folder(sys.argv[1])
texts = ["the quick brown fox jumps over the lazy dog " * 100] * 100
before = threads(), dict(os.environ), pa.cpu_count()
with cores(int(sys.argv[2])):
    started, used = time.monotonic(), time.process_time()
    tokenizer.encode_batch(texts)
    print(threads() - before[0], pa.cpu_count())
    print((time.process_time() - used) / (time.monotonic() - started))
assert (dict(os.environ), pa.cpu_count()) == before[1:]
"""


def tokenize(model: str, count: int) -> tuple[int, int, float]:
    """Threads that tokenizing on `count` cores starts, Arrow's threads, and the cores it used."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, str(count)],
        env={name: value for name, value in os.environ.items() if name != "RAYON_NUM_THREADS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    started, arrow, used = done.stdout.split()
    return int(started), int(arrow), float(used)


def test_one_core_is_one_core(model: str) -> None:
    """No thread beside the task's own, and never more than a core of time."""
    started, arrow, used = tokenize(model, 1)
    assert (started, arrow) == (0, 1)
    assert used < 1.1


def test_several_cores_are_so_many_threads(model: str) -> None:
    """And not as many as the machine has cores."""
    assert tokenize(model, 3)[:2] == (3, 3)
