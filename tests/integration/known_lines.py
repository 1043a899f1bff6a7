"""The lines that a run writes for people: whatever else is on its stderr came from a library."""

from __future__ import annotations

import re

CLOCK = r"\d\d:\d\d:\d\d "
PHASES = (
    r"planning|connecting to Ray|settling the types of columns|cutting the input into units|"
    r"starting engines|running|writing the report"
)
KNOWN = [
    rf"{CLOCK}({PHASES})",
    rf"{CLOCK}({PHASES}): [\d,]+ rows to go",
    rf"{CLOCK}({PHASES}): [\d,]+/[\d,]+ rows done \([\d.]+%\), [\d,]+ committed"
    r"(, a kill now would redo [\d,]+ rows?)?, [\d,.]+ rows/s, [\d,]+ output tok/s, [\d:-]+ left",
    rf"{CLOCK}resuming: [\d,]+ rows are committed already, [\d,]+ to go",
    rf"{CLOCK}the cluster has no GPU: engines run on CPUs",
    rf"{CLOCK}the output is held by .*; watching for up to \d+ s whether it is alive",
    r"stopping: what is committed stays; a second Ctrl-C ends at once",
    r"interrupted; what is committed stays, run the same command again to go on",
    rf"{CLOCK}the smallest answer that `answer\.\w+` allows has about .*",
    r"\S.*: complete",
    r"  (rows|tokens|speed|engines|planned|cost|hours|results|errors|DuckDB|pandas) +\S.*",
]


def strange_lines(text: str) -> list[str]:
    """The lines of a run's stderr that are not of this package."""
    return [line for line in text.splitlines() if not any(re.fullmatch(k, line) for k in KNOWN)]
