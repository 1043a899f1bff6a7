"""A model's files from a folder, from S3 and from a hub that cannot be reached."""

from __future__ import annotations

import json
import multiprocessing
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gemma_batch.errors import ModelError, StorageError
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.models import check_unchanged, fetch_weights, model_files

if TYPE_CHECKING:
    from tests.conftest import S3Server

FILES = {
    "config.json": b'{"model_type": "gemma3_text"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": b"w" * 3000,
    "model-00002-of-00002.safetensors": b"w" * 500,
    "model.safetensors.index.json": b"{}",
    "pytorch_model.bin": b"w" * 7000,
    "original/other.json": b"{}",
}
SMALL = sorted(
    name for name in FILES if not name.endswith((".safetensors", ".bin")) and "/" not in name
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEMMA_BATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(place: str) -> Store:
    store = open_store(f"{place}/tiny")
    for name, data in FILES.items():
        store.put(name, data)
    return store


def test_small_files_are_at_hand(model: Store, cache: Path) -> None:
    """In a local folder, with the size of the weights but, from S3, not the weights."""
    found = model_files(model.url + "/")
    folder = Path(found.path)
    assert json.loads((folder / "config.json").read_bytes())["model_type"] == "gemma3_text"
    assert found.weight_bytes == 3500
    if model.url.startswith("s3://"):
        assert sorted(p.name for p in folder.iterdir()) == SMALL
        assert folder.is_relative_to(cache)
        assert found.revision
    else:
        assert str(folder) == model.url
        assert found.revision is None
        assert not cache.exists()


def test_weights_come_once_and_whole(model: Store, cache: Path) -> None:
    """From S3 into the cache, without a second format of the same weights; a folder stays."""
    folder = Path(fetch_weights(model.url))
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == b"w" * 3000
    if model.url.startswith("s3://"):
        assert not (folder / "pytorch_model.bin").exists()
        before = (folder / "config.json").stat().st_mtime_ns
        assert fetch_weights(model.url) == str(folder)
        assert (folder / "config.json").stat().st_mtime_ns == before
    else:
        assert str(folder) == model.url


def test_a_changed_model_is_another_folder(s3: S3Server, cache: Path) -> None:
    """An old copy is never taken for a new model, nor mixed with it."""
    store = open_store(f"{s3.bucket('models')}/{uuid.uuid4().hex}")
    for name, data in FILES.items():
        store.put(name, data)
    first, old = model_files(store.url), fetch_weights(store.url)
    assert fetch_weights(store.url, first) == old
    store.put("model-00002-of-00002.safetensors", b"v" * 500)
    second, new = model_files(store.url), fetch_weights(store.url)
    assert first.revision != second.revision
    with pytest.raises(ModelError, match="not the one that was planned"):
        fetch_weights(store.url, first)
    with pytest.raises(ModelError, match="not the one that was planned"):
        check_unchanged(store.url, first)
    assert Path(old, "model-00002-of-00002.safetensors").read_bytes() == b"w" * 500
    assert Path(new, "model-00002-of-00002.safetensors").read_bytes() == b"v" * 500


def test_streamed_weights_are_not_copied_but_looked_for(s3: S3Server, cache: Path) -> None:
    """The engine reads them itself; that there are safetensors is known before it tries."""
    store = open_store(f"{s3.bucket('models')}/{uuid.uuid4().hex}")
    for name, data in FILES.items():
        store.put(name, data)
    folder = Path(fetch_weights(store.url, streamed=True))
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "tokenizer.json"}
    assert not [name for name in names if name.endswith(".safetensors")]
    bare = open_store(f"{s3.bucket('models')}/{uuid.uuid4().hex}")
    bare.put("config.json", b"{}")
    with pytest.raises(ModelError, match="no weights at all"):
        fetch_weights(bare.url, streamed=True)


def test_an_interrupted_copy_is_continued(s3: S3Server, cache: Path) -> None:
    """What was finished is kept, what was not is fetched again, and only then is it a model."""
    store = open_store(f"{s3.bucket('models')}/{uuid.uuid4().hex}")
    for name, data in FILES.items():
        store.put(name, data)
    folder = Path(fetch_weights(store.url))
    partial = folder.with_name(folder.name + ".partial")
    folder.rename(partial)
    kept = (partial / "config.json").stat().st_mtime_ns
    (partial / "model-00001-of-00002.safetensors").rename(partial / "model-00001.tmp")
    assert fetch_weights(store.url) == str(folder)
    assert (folder / "config.json").stat().st_mtime_ns == kept
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == b"w" * 3000
    assert not partial.exists()


def test_processes_of_one_node_share_one_copy(s3: S3Server, cache: Path) -> None:
    """Several at once: all get the same complete folder."""
    store = open_store(f"{s3.bucket('models')}/{uuid.uuid4().hex}")
    for name, data in FILES.items():
        store.put(name, data)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.map(fetch_weights, [store.url] * 6)
    assert len(set(folders)) == 1
    assert sum(p.is_dir() for p in (cache / "models").iterdir()) == 1


def test_a_hub_that_cannot_be_reached_is_said_fast(
    cache: Path,
) -> None:
    """Within seconds, with what to do."""
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"'google/gemma-3-1b-it'.*copy the model's folder"):
        model_files("google/gemma-3-1b-it")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("./no-such-folder", "does not exist on this machine"),
        ("/no/such/folder", "does not exist on this machine"),
        ("gs://bucket/model", "not supported"),
        ("a b/c d/e", "neither a hub id"),
    ],
)
def test_what_is_no_model_is_refused(model: str, sentence: str) -> None:
    """The message shows what was given."""
    with pytest.raises(ModelError, match=sentence) as caught:
        model_files(model)
    assert repr(model) in str(caught.value)


def test_an_incomplete_folder_is_refused(model: Store, cache: Path, tmp_path: Path) -> None:
    """The missing file is named; so is an s3 folder that is not there, and a revision of one."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no 'tokenizer\.json'"):
        model_files(str(tmp_path / "half"))
    with pytest.raises(ModelError, match="does not exist"):
        model_files(model.url + "-none")
    with pytest.raises(ModelError, match="'v1'"):
        model_files(model.url, "v1")


def test_a_missing_bucket_is_a_model_error(s3: S3Server) -> None:
    """Found before anything costly."""
    with pytest.raises(ModelError, match="bucket 'no-such-models' does not exist"):
        model_files("s3://no-such-models/x")


def test_a_cache_that_cannot_be_made_names_the_variable(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out is in the message."""
    store = open_store(f"{s3.bucket('models')}/{uuid.uuid4().hex}")
    store.put("model.safetensors", b"{}")
    monkeypatch.setenv("GEMMA_BATCH_CACHE", "/dev/null/nowhere")
    with pytest.raises(StorageError, match="GEMMA_BATCH_CACHE"):
        fetch_weights(store.url)
