"""How many examples hypothesis tries: some in `make test`, many in `make test-long`."""

from __future__ import annotations

import os

LONG = os.environ.get("GEMMA_BATCH_LONG_TESTS", "") == "1"


def examples(usual: int) -> int:
    """Of `usual` ones a third in `make test`, each time others, and ten times as many in the long
    run."""
    return usual * 10 if LONG else max(10, usual // 3)
