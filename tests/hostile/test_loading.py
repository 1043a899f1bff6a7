"""What is loaded is data: no YAML objects, no alias bombs, no pickles, whoever wrote the file."""

from __future__ import annotations

import ast
import pickle
import resource
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from gemma_batch.errors import ModelError, SpecError
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import apply_overrides, parse_yaml
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.models import fetch_weights, model_files

if TYPE_CHECKING:
    from tests.conftest import S3Server

PACKAGE = Path(__file__).parent.parent.parent / "gemma_batch"
VALID = {"input": {"path": "in"}, "model": "m", "output": {"path": "out"}}
OBJECTS = [
    "!!python/object/apply:os.system ['touch {bait}']",
    "!!python/object/apply:subprocess.check_output [['touch', '{bait}']]",
    "!!python/object/new:os.system ['touch {bait}']",
    "!!python/object:os.system {a: b}",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!!python/tuple [1, 2]",
    "!!python/bytes 'a'",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {bait}']",
    "[{a: !!python/object/apply:os.system ['touch {bait}']}]",
]


@pytest.mark.parametrize("value", OBJECTS)
def test_yaml_makes_no_objects(value: str, tmp_path: Path) -> None:
    """In a spec and in `--set`: refused as `SpecError`, and nothing was run."""
    bait = tmp_path / "bait"
    value = value.replace("{bait}", str(bait))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(VALID) + f"name: {value}\n")
    with pytest.raises(SpecError, match="is not valid YAML at line"):
        JobSpec.load(path)
    with pytest.raises(SpecError, match="only plain values"):
        apply_overrides(VALID, [f"prompt.user={value}"])
    assert not bait.exists()


def test_an_override_that_is_no_yaml_is_text() -> None:
    """Templates, marks and dates that are none stay what was written."""
    for text in ("{{ body }}", "!important", "[", "2026-99-99", "*x", "a: b: c", "9" * 5000):
        assert apply_overrides({}, [f"prompt.user={text}"]) == {"prompt": {"user": text}}


BROKEN = [
    "a: " + "[" * 5000 + "]" * 5000,
    "a: " + "{a: " * 3000 + "}" * 3000,
    "a: 2026-99-99",
    "a: " + "9" * 5000,
    "a: !!int x",
    "a: !!float x",
    "a: !!timestamp x",
    "a: !!bool 3",
    "a: &x [*x]",
    "a: &x {b: *x}",
    "a: &x {<<: *x}",
    "a: *nowhere",
    "a: !mine 1",
    "? [1]\n: 2",
    "<<: [1]",
    "%YAML 3.0\n---\na: 1",
    "\x00",
]


@pytest.mark.parametrize("text", BROKEN, ids=[text[:16] for text in BROKEN])
def test_broken_yaml_is_one_sentence(text: str) -> None:
    """Whatever the loader raises on it, a person reads what file is wrong, in one line."""
    with pytest.raises(SpecError, match=r"'job\.yaml'") as caught:
        parse_yaml(text, where="job.yaml")
    assert len(str(caught.value)) < 500


def bomb(levels: int, width: int) -> str:
    """Lists of aliases of lists of aliases: `width ** levels` values in a few hundred bytes."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]")
    return "\n".join(lines)


MERGES = "a0: &a0 {x: 1}\n" + "\n".join(
    f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}, <<: *a{i - 1}}}" for i in range(1, 40)
)


@pytest.mark.parametrize("text", [bomb(9, 10), bomb(60, 2), bomb(5, 100), MERGES])
def test_an_alias_bomb_is_refused_at_once(text: str, tmp_path: Path) -> None:
    """Anywhere in a spec, also where any value is allowed; aliases themselves are fine."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    indented = text.replace("\n", "\n    ")
    spec = yaml.safe_dump(VALID) + f"resources:\n  engine_args:\n    {indented}\n"
    path = tmp_path / "job.yaml"
    path.write_text(spec)
    with pytest.raises(SpecError, match="aliases"):
        JobSpec.load(path)
    with pytest.raises(SpecError, match="aliases"):
        apply_overrides({}, [f"resources.engine_args={{{text.replace(chr(10), ', ')}}}"])
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB


def test_an_ordinary_alias_is_filled_in(tmp_path: Path) -> None:
    """People use them to say a thing once."""
    path = tmp_path / "job.yaml"
    path.write_text(
        "input: {path: in}\noutput: {path: &p out, keep: [a]}\nname: *p\n"
        "routes:\n- &r {name: one, when: 'n > 1', model: m}\n- {<<: *r, name: two, when: null}\n"
    )
    spec = JobSpec.load(path)
    assert spec.name == "out"
    assert [(route.name, route.when) for route in spec.routes] == [("one", "n > 1"), ("two", None)]


UNSAFE_MODULES = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "jsonpickle", "pandas",
}  # fmt: skip
UNSAFE_NAMES = {
    "read_pickle", "allow_pickle", "eval", "exec", "__import__", "unsafe_load", "full_load",
    "UnsafeLoader", "FullLoader", "trust_remote_code", "compile_command",
}  # fmt: skip
UNSAFE_CALLS = {("torch", "load"), ("yaml", "load"), ("np", "load"), ("numpy", "load")}


def unsafe_in(source: str) -> set[str]:
    """Every name in the source by which Python would run what a file holds."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in names if n.split(".")[0] in UNSAFE_MODULES}
            found |= {n for n in names if tuple(n.split(".")) in UNSAFE_CALLS}
            found |= {alias.name for alias in node.names if alias.name in UNSAFE_NAMES}
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in UNSAFE_CALLS:
                found.add(f"{node.value.id}.{node.attr}")
            if node.attr in UNSAFE_NAMES:
                found.add(node.attr)
        elif isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg in UNSAFE_NAMES:
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            found |= set() if off else {str(node.arg)}
        elif isinstance(node, ast.Constant) and node.value in UNSAFE_MODULES - {"pandas"}:
            found.add(str(node.value))  # import_module("pickle")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import numpy as np\nnp.load('x')",
        "np.load('x', allow_pickle=True)",
        "import yaml\nyaml.load('x')",
        "import yaml\nyaml.unsafe_load('x')",
        "importlib.import_module('pickle')",
        "eval('1')",
        "def f():\n    import marshal",
        "LLM(trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    """Else the next test could not fail."""
    assert unsafe_in(source)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix()
)
def test_the_package_never_runs_what_a_file_holds(path: Path) -> None:
    """No unpickling and no evaluation in any module, at its top or in a function."""
    assert unsafe_in(path.read_text(encoding="utf-8")) == set()


class _Bait:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


SMALL = {"config.json": b"{}", "tokenizer.json": b"{}"}


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new model folder, local and on S3."""
    monkeypatch.setenv("GEMMA_BATCH_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return str(tmp_path / "model")
    s3: S3Server = request.getfixturevalue("s3")
    return f"{s3.bucket('pickles')}/{uuid.uuid4().hex}"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_model_of_pickles_is_refused(place: str, name: str, tmp_path: Path) -> None:
    """Before an engine sees it, with the file named; it is neither loaded nor copied."""
    bait = tmp_path / "bait"
    store = open_store(place)
    for key, data in {**SMALL, name: pickle.dumps(_Bait(bait))}.items():
        store.put(key, data)
    with pytest.raises(ModelError, match=r"pickles.*never loaded") as caught:
        fetch_weights(place)
    assert repr(name) in str(caught.value)
    assert model_files(place).weight_bytes is None
    assert not bait.exists()
    assert not list((tmp_path / "cache").rglob(name))
    assert fetch_weights(place, weights=False)  # an engine that makes its weights up
    assert not list((tmp_path / "cache").rglob(name))


def test_a_model_without_weights_is_refused(place: str) -> None:
    """Unless it is said that none are needed."""
    store = open_store(place)
    for key, data in SMALL.items():
        store.put(key, data)
    with pytest.raises(ModelError, match="no weights at all"):
        fetch_weights(place)
    folder = Path(fetch_weights(place, weights=False))
    assert (folder / "config.json").read_bytes() == b"{}"


def test_pickles_beside_safetensors_stay_where_they_are(place: str, tmp_path: Path) -> None:
    """Many models carry both; only the safe ones are copied, with or without weights."""
    store = open_store(place)
    for key, data in {**SMALL, "model.safetensors": b"w", "model.bin": b"p", "x.pt": b"p"}.items():
        store.put(key, data)
    folder = Path(fetch_weights(place))
    assert (folder / "model.safetensors").exists()
    if place.startswith("s3://"):
        assert not list((tmp_path / "cache").rglob("*.bin"))
        assert not list((tmp_path / "cache").rglob("*.pt"))
        bare = Path(fetch_weights(place, weights=False))
        assert not (bare / "model.safetensors").exists()
