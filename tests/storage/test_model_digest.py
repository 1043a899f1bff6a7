"""The digest of a model folder: another checkpoint is found, a copy of the same one is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gemma_batch.storage import model_digest
from gemma_batch.storage.model_digest import STRIDE, weights_digest


@pytest.fixture(params=["read whole", "sampled"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of weights; once as a small model, once as one that is too large to read whole."""
    if request.param == "sampled":
        monkeypatch.setattr(model_digest, "WHOLE", 0)
    found = tmp_path / "model"
    found.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        weights = {
            "norm": rng.standard_normal(256, np.float32),
            "embed": rng.standard_normal((3 * STRIDE // 1024, 256), np.float32),
            "proj": rng.standard_normal((512, 256), np.float32),
        }
        save_file(weights, found / f"model-{i}.safetensors")
    return found


def change(path: Path, name: str, share: float) -> None:
    """What a step of training does: a share of a tensor's numbers moves, the rest stays."""
    weights: dict[str, Any] = load_file(path)
    before, size = weights[name], path.stat().st_size
    moved = np.random.default_rng(1).random(before.shape) < share
    weights[name] = np.where(moved, before * np.float32(1.001), before)
    save_file(weights, path)
    assert path.stat().st_size == size


@pytest.mark.parametrize(("name", "share"), [("embed", 0.01), ("proj", 0.05), ("norm", 0.05)])
def test_another_checkpoint_is_found(folder: Path, name: str, share: float) -> None:
    """Names, sizes and headers are equal; so are most numbers and even the times of the files."""
    before = weights_digest(str(folder))
    path = folder / "model-1.safetensors"
    stat = path.stat()
    change(path, name, share)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights_digest(str(folder)) != before


def test_a_copy_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    """On another machine, with other times: a run may go on there."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    os.utime(copy / "model-0.safetensors", (1, 1))
    assert weights_digest(str(copy)) == weights_digest(str(folder))
    (copy / "model-1.safetensors").rename(copy / "model-2.safetensors")
    assert weights_digest(str(copy)) != weights_digest(str(folder))


def test_a_single_byte_of_a_small_model_counts(tmp_path: Path) -> None:
    """Small models are read whole."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(STRIDE, np.uint8)}, path)
    before = weights_digest(str(tmp_path))
    with path.open("r+b") as file:
        file.seek(-12345, os.SEEK_END)
        file.write(b"\x01")
    assert weights_digest(str(tmp_path)) != before


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0"]
)
def test_files_that_are_no_safetensors_have_a_digest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """That they cannot be loaded is for the engine to say."""
    monkeypatch.setattr(model_digest, "WHOLE", 0)
    assert weights_digest(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(data)
    found = weights_digest(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(data + b"x")
    assert found
    assert weights_digest(str(tmp_path)) != found
