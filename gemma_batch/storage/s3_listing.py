"""S3 listing: finds the objects that a path of the input means (driver, laptop).

An object whose key ends with a slash stands for a folder. Objects in an archive (Glacier) cannot be
read before somebody restores them, so they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gemma_batch.errors import InputError
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.left_out import HIDDEN, SLASH, Tally
from gemma_batch.storage.names import Pattern, is_known
from gemma_batch.storage.s3 import etag_of, facts_of, objects
from gemma_batch.storage.table_logs import OUTPUT, OUTPUT_FOLDER, TableLog, log_at

ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # storage classes without access; GLACIER_IR has access
ASKED, ASKERS = 256, 16  # archived objects that are asked whether they are restored
FOLDER_MARK = "_$folder$"  # the end of the key of an empty object that Hadoop puts for a folder


class Objects:
    """The objects of one path. `output` is the URL of the job's output, or ""."""

    def __init__(self, pattern: Pattern, tally: Tally, output: str = "") -> None:
        self._pattern, self._tally, self._output = pattern, tally, output
        self.logs: list[TableLog] = []
        self.folders: list[str] = []  # that the pattern itself matches
        self.archived: list[str] = []

    def files(self) -> list[InputFile]:
        """Every file that the path means. Raises `StorageError`."""
        base, pattern = self._pattern.base, self._pattern
        bucket = base.removeprefix("s3://").split("/")[0]
        found: list[InputFile] = []
        logs: dict[TableLog, None] = {}
        folders: dict[str, None] = {}
        for one in objects(f"{base}/"):
            url = f"s3://{bucket}/{one['Key']}"
            names = url[len(base) + 1 :].split("/")
            if (log := log_at(base, names)) is not None and self._concerns(log):
                logs[log] = None
            if not pattern.matches(names):
                if folder := self._matched_folder(names):
                    folders[folder] = None
                continue
            hidden = next((name for name in names if pattern.hides(name)), None)
            if hidden is not None:
                if not (any(map(is_known, names)) or self._is_own(url)):
                    self._tally.add(HIDDEN, url)
            elif not names[-1] or names[-1].endswith(FOLDER_MARK):
                if one["Size"]:
                    self._tally.add(SLASH, url)
            else:
                found.append(InputFile(url, int(one["Size"]), etag_of(one)))
                if one.get("StorageClass") in ARCHIVES:
                    self.archived.append(url)
        self.logs, self.folders = list(logs), list(folders)
        return found

    def _concerns(self, log: TableLog) -> bool:
        """Whether files of the table are asked for."""
        names = [name for name in log.table[len(self._pattern.base) + 1 :].split("/") if name]
        if any(map(self._pattern.hides, names)):
            return False
        return self._pattern.may_hold([*names, OUTPUT_FOLDER] if log.format == OUTPUT else names)

    def _matched_folder(self, names: Sequence[str]) -> str:
        """The folder that the pattern itself matches, above the object `names`, or ""."""
        above, pattern = names[: len(self._pattern.parts)], self._pattern
        if "**" in pattern.parts or len(above) == len(names) or not pattern.matches(above):
            return ""
        folder = "/".join([pattern.base, *above])
        return "" if any(map(pattern.hides, above)) or self._is_own(f"{folder}/") else folder

    def _is_own(self, url: str) -> bool:
        return bool(self._output) and url.startswith(self._output.rstrip("/") + "/")


def one_object(url: str, archived: list[str]) -> InputFile:
    """The object at `url`; its URL is added to `archived` when it is in an archive.

    Raises FileNotFoundError, `StorageError`.
    """
    facts = facts_of(url)
    if facts.get("StorageClass") in ARCHIVES:
        archived.append(url)
    return InputFile(url, int(facts["ContentLength"]), etag_of(facts))


def check_archived(urls: Sequence[str]) -> None:
    """Raise `InputError` when one of these archived objects is not restored.

    When there are many, only some are asked.
    """
    if not urls:
        return
    asked = urls[:: -(-len(urls) // ASKED)]
    with ThreadPoolExecutor(ASKERS) as pool:
        closed = [url for url, shut in zip(asked, pool.map(_is_shut, asked), strict=True) if shut]
    if closed:
        several = f"{len(urls):,} files are" if len(urls) > 1 else "a file is"
        raise InputError(
            f"input.path: {several} in an archive of S3 (storage class GLACIER or DEEP_ARCHIVE) "
            f"and cannot be read, for example {closed[0]!r}: restore them first "
            "(`aws s3api restore-object`), or narrow input.path"
        )


def _is_shut(url: str) -> bool:
    try:
        restored = str(facts_of(url).get("Restore", ""))
    except FileNotFoundError:
        return False
    return 'ongoing-request="false"' not in restored
