"""README and docs as the tests read them: pages, fenced blocks, code spans, links."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str, page: str | None = None) -> list[str]:
    """The fenced blocks of a language, of one page or of all."""
    texts = [PAGES[page]] if page else list(PAGES.values())
    return [block for text in texts for kind, block in FENCE.findall(text) if kind == language]


def shell_lines(*programs: str) -> list[str]:
    """The lines of all shell blocks that call one of the programs."""
    lines = "\n".join(blocks("bash")).splitlines()
    return [line for line in lines if line.startswith(tuple(f"{one} " for one in programs))]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """What stands between backticks outside of fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}


def readme_spec() -> dict[str, object]:
    """The job that the README shows, as plain data."""
    (text,) = blocks("yaml", "README.md")
    data: dict[str, object] = yaml.safe_load(text)
    return data


def table(page: str, *head: str) -> list[list[str]]:
    """The rows of the one table of a page with these column titles."""
    start = f"| {' | '.join(head)} |\n"
    _, found, rest = PAGES[page].partition(start)
    assert found, f"{page} has no table with the columns {head}"
    rows = rest.partition("\n")[2].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in row.strip("|").split(" |")] for row in rows]
