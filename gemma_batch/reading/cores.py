"""The CPU cores that a reading task computes on: those it asked Ray for, not all of the node."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pyarrow as pa

# The tokenizers library looks at the first variable at each call, and at the second one when its
# threads start. Without its threads, it computes in the thread of the call.
PARALLEL, THREADS = "TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS"


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """Let tokenizers and Arrow compute on `count` cores within the block.

    Everything is as before after the block, because Ray gives the same process other tasks too.
    Readers of this package that have an option for threads use none, and Ray itself limits OpenMP.
    """
    ours = {PARALLEL: "true" if count > 1 else "false", THREADS: str(count)}
    kept = {name: os.environ.get(name) for name in ours}
    threads = pa.cpu_count()
    os.environ.update(ours)
    pa.set_cpu_count(count)
    try:
        yield
    finally:
        pa.set_cpu_count(threads)
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
