"""Left out: the files that a listing of the input found, and what it left out (driver)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.table_logs import TableLog

MOST_COUNTED = 10_000  # files below one hidden folder that are counted

HIDDEN = "hidden"
TWICE = "twice"
UPWARD = "upward"
SPECIAL = "special"
GONE = "gone"
FOLDERS = "folders"
SLASH = "slash"

# The text for one file, the text for several, and a hint.
REASONS = {
    HIDDEN: (
        "file below a name that starts with _ or .",
        "files below names that start with _ or .",
        "",
    ),
    TWICE: (
        "link to a file or folder that is in the input under another name",
        "links to files or folders that are in the input under other names",
        "",
    ),
    UPWARD: (
        "link to a folder around the input",
        "links to folders around the input",
        "",
    ),
    SPECIAL: (
        "name that is no file but a pipe, socket or device",
        "names that are no files but pipes, sockets or devices",
        "",
    ),
    GONE: (
        "file that was deleted while the input was listed",
        "files that were deleted while the input was listed",
        "",
    ),
    FOLDERS: (
        "folder that the pattern matches",
        "folders that the pattern matches",
        "; end the pattern with /** to read the files in folders, too",
    ),
    SLASH: (
        "object whose key ends with a slash, as if it were a folder",
        "objects whose keys end with a slash, as if they were folders",
        "",
    ),
}


@dataclass(slots=True)
class LeftOut:
    """What was left out for one `reason` (a key of `REASONS`).

    `count` is a number of files, links or folders, and the true number may be higher when `more` is
    set. `example` is one of them.
    """

    reason: str
    count: int
    example: str
    more: bool = False

    @property
    def note(self) -> str:
        """A sentence for people."""
        number = f"more than {self.count:,}" if self.more else f"{self.count:,}"
        one, several, hint = REASONS[self.reason]
        what = one if self.count == 1 and not self.more else several
        shown = f"{self.example!r}" if self.count == 1 else f"for example {self.example!r}"
        return f"left out of the input: {number} {what} ({shown}){hint}"


class Tally:
    """Counts what is left out."""

    def __init__(self) -> None:
        self.found: dict[str, LeftOut] = {}
        self._known: set[tuple[str, str]] = set()

    def add(self, reason: str, example: str, count: int = 1, *, more: bool = False) -> None:
        """Count `count` more files for this reason; the first example is kept.

        An example that is known was met below another path of the input, and is not counted again.
        """
        if not count or (reason, example) in self._known:
            return
        self._known.add((reason, example))
        known = self.found.setdefault(reason, LeftOut(reason, 0, example))
        known.count += count
        known.more |= more


@dataclass(frozen=True, slots=True)
class Listing(Sequence[InputFile]):
    """The files of the input, sorted by URL, and what was left out.

    `logs` are the logs of table formats beside the files.
    """

    files: tuple[InputFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    logs: tuple[TableLog, ...] = field(default=())

    @property
    def notes(self) -> list[str]:
        """A sentence for people per reason."""
        return [one.note for one in self.left_out]

    @overload
    def __getitem__(self, index: int) -> InputFile: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[InputFile, ...]: ...

    def __getitem__(self, index: int | slice) -> InputFile | tuple[InputFile, ...]:
        return self.files[index]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[InputFile]:
        return iter(self.files)
