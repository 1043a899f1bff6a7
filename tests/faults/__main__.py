"""`python -m tests.faults [--only NAME ...] [--rounds N] [--minutes M] [--seed S]`: attack, check.

All faults in the table's order, or with `--minutes` others in every run: CI's share of them.
"""

from __future__ import annotations

import argparse
import functools
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from .runner import bench, chosen, random_kills, run_all, table
from .scenarios import FAULTS

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def write_into(path: Path, text: str) -> None:
    """Put the lines of a table into the table between the two marks, in the order of the faults.

    A fault that did not run keeps the line that it has; the line of one that is no more goes.
    """
    before, _, rest = path.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    head, lines = text.splitlines()[:2], {**_by_fault(old), **_by_fault(text)}
    wanted = [(fault.what, fault.how) for fault in FAULTS.values()]
    table = "\n".join([*head, *(lines[key] for key in wanted if key in lines)])
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _by_fault(table: str) -> dict[tuple[str, str], str]:
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {(row[0], row[1]): line for row, line in zip(cells, lines, strict=True)}


def main() -> None:
    """The command line."""
    # Shells start background jobs with SIGINT ignored, and so would be every driver we interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=1, help="how often the chosen faults run")
    parser.add_argument(
        "--minutes",
        type=float,
        help="only what begins within them, of those that `make test` leaves out, by chance",
    )
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    parser.add_argument("--kills", type=int, help="instead: so many random SIGKILLs of the driver")
    parser.add_argument("--readme", type=Path, help="put the lines into this file's table")
    options = parser.parse_args()
    say = functools.partial(print, flush=True)
    if options.kills:
        with (
            tempfile.TemporaryDirectory(prefix="faults-") as temporary,
            bench(options.keep or Path(temporary), seed=options.seed) as made,
        ):
            print(random_kills(made, options.kills, say))
        return
    faults, until = chosen(options.only) * options.rounds, None
    if options.minutes is not None:
        faults = [fault for fault in faults if not fault.quick]
        random.Random(options.seed).shuffle(faults)
        until = time.monotonic() + 60 * options.minutes
    say(f"{len(faults)} runs, seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        folder = options.keep or Path(temporary)
        with bench(folder, seed=options.seed) as made:
            results = run_all(made, faults, say, until)
    text = table(results)
    print(text)
    if options.readme:
        write_into(options.readme, text)
    sys.exit(any(result.problem for result in results))


if __name__ == "__main__":
    main()
