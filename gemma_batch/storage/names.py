"""Names: which names of files a path of the input means (driver, laptop).

A path is a folder with everything below it, or a pattern with wildcards. The rules are the same for
local paths and for keys in s3://, so this module looks at names alone and at no file system.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gemma_batch.errors import InputError

MAGIC = "*?["
# Hidden names that tools write beside data and that never hold rows of their own.
KNOWN = (
    "_SUCCESS", "_SUCCESS.*", "_metadata", "_common_metadata", "_committed_*", "_started_*",
    "_temporary", "_spark_metadata", "_delta_log", "_delta_index", "_change_data", "_run",
    "_symlink_format_manifest", ".*.crc", ".DS_Store", "._*", ".hoodie*", ".git", ".gitattributes",
    ".gitignore", ".gitkeep", ".keep", ".ipynb_checkpoints", ".cache", ".nfs*", ".fuse_hidden*",
    ".#*", ".~lock.*", ".*.sw?", ".snapshot", ".snapshots", ".Trash*",
)  # fmt: skip


def has_magic(text: str) -> bool:
    """Whether the text has a wildcard in it."""
    return any(char in text for char in MAGIC)


def looks_hidden(name: str) -> bool:
    """Whether a file or folder is left out for its name.

    These are the names that start with `_` or `.`. A name such as `_load_date=2026-01-01` is a
    partition, so it is data.
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def is_known(name: str) -> bool:
    """Whether a hidden name is one that tools write beside data."""
    return any(fnmatchcase(name, known) for known in KNOWN)


def other_forms(text: str) -> list[str]:
    """The same text in other normal forms of Unicode.

    In the name of a file that comes from macOS, an accent is often a character for itself (NFD). A
    keyboard makes one character of a letter and its accent (NFC). Both look the same.
    """
    forms = [unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)]
    return [form for form in dict.fromkeys(forms) if form != text]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path of the input: the folder `base`, which is taken literally, and the `parts` below it.

    Without parts, the path means everything below the folder.
    """

    base: str
    parts: tuple[str, ...]
    _regex: re.Pattern[str] | None

    def matches(self, names: Sequence[str]) -> bool:
        """Whether a file is meant; `names` are the names from `base` down to the file."""
        return self._regex is None or bool(self._regex.match(_nfc("/".join(names))))

    def may_hold(self, names: Sequence[str]) -> bool:
        """Whether files below the folder can be meant; `names` are the names from `base` down."""
        for name, part in zip(names, self.parts, strict=False):
            if part == "**":
                return True
            if not fnmatchcase(_nfc(name), _nfc(part)):
                return False
        return not self.parts or len(names) < len(self.parts)

    def hides(self, name: str) -> bool:
        """Whether a file or folder is left out for its name.

        A hidden name is data when the pattern asks for it, as `_*` and `.config/*` do.
        """
        return looks_hidden(name) and not any(
            looks_hidden(part) and fnmatchcase(name, part) for part in self.parts
        )


def pattern(path: str, is_folder: Callable[[str], bool]) -> Pattern:
    """The pattern that a path means.

    A folder that exists literally wins over the meaning of its name as a pattern: `is_folder` says
    whether a folder exists. Raises `InputError` for a pattern that means nothing.
    """
    names = path.split("/")
    for i, name in enumerate(names):
        if has_magic(name) and not is_folder("/".join(names[: i + 1])):
            return Pattern("/".join(names[:i]) or "/", tuple(names[i:]), _regex(path, names[i:]))
    return Pattern("/".join(names) or "/", (), None)


def _regex(path: str, parts: Sequence[str]) -> re.Pattern[str]:
    from fsspec.utils import glob_translate

    try:
        return re.compile(glob_translate(_nfc("/".join(parts))))
    except (ValueError, re.error):
        raise InputError(
            f"input.path {path!r} is no pattern that can be used: `**` has to stand alone between "
            "two slashes"
        ) from None


def _nfc(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)
