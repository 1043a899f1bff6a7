"""The rules of the house (DESIGN.md, Rooms), checked on the source itself.

Each rule is a function from a package's folder to sentences about what breaks it, so that a test
can plant a violation of each rule and see that it is found.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from gemma_batch.engines.base import REGISTRY

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gemma_batch"
# Rooms from the bottom to the top; those of one line do not import each other.
LAYERS = (
    ("errors", "backoff", "texts", "rows"),
    ("spec",),
    ("family",),
    ("storage",),
    ("prompts",),
    ("engines",),
    ("units",),
    ("reading", "answering"),
    ("committing",),
    ("planning",),
    ("reporting",),
    ("cluster",),
    ("driver",),
    ("ops",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILE_SYSTEMS = {"fsspec", "s3fs", "boto3", "botocore", "aiobotocore", "huggingface_hub", "obstore"}
LONGEST = 400  # lines; 50 to 250 are the aim


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a room's `__init__` has the name of the room."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Every name that a file imports, at its top or inside functions, types only included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    known = modules(package)
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for full in imports(path):
            if full.startswith("gemma_batch."):
                inner = full.removeprefix("gemma_batch.")
                graph[name].add(inner if inner in known else inner.rpartition(".")[0])
    return graph


def room(name: str) -> str:
    return name.partition(".")[0]


def outsiders(package: Path, libraries: set[str], allowed: Callable[[str], bool]) -> list[str]:
    return [
        f"{name} imports {full}"
        for name, path in modules(package).items()
        if not allowed(name)
        for full in imports(path)
        if full.partition(".")[0] in libraries
    ]


def only_one_module_imports_vllm(package: Path) -> list[str]:
    return outsiders(package, {"vllm"}, lambda name: name == "engines.vllm")


def only_cluster_and_ops_import_ray(package: Path) -> list[str]:
    return outsiders(package, {"ray"}, lambda name: room(name) in {"cluster", "ops"})


def only_storage_knows_file_systems(package: Path) -> list[str]:
    return outsiders(package, FILE_SYSTEMS, lambda name: room(name) == "storage")


def family_is_arithmetic_on_data(package: Path) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, others in ours(package).items()
        if room(name) == "family"
        for other in others
        if room(other) not in {"family", "errors"}
    ]


def tasks_and_actors_know_no_driver(package: Path) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, others in ours(package).items()
        if room(name) in {"reading", "answering", "committing"}
        for other in others
        if room(other) in {"driver", "cluster", "planning", "reporting"}
    ]


def every_module_is_in_a_room(package: Path) -> list[str]:
    return [name for name in modules(package) if name and room(name) not in LEVEL]


def no_import_runs_upwards(package: Path) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, others in ours(package).items()
        for other in others
        if name and other and room(name) != room(other)
        if LEVEL.get(room(other), 99) >= LEVEL.get(room(name), 99)
    ]


def no_circle(package: Path) -> list[str]:
    graph = {name: others - {name} for name, others in ours(package).items() if name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as err:
        return [" -> ".join(err.args[1])]
    return []


def no_two_modules_of_one_name(package: Path) -> list[str]:
    stems = Counter(name.rpartition(".")[2] for name in modules(package) if name)
    return [stem for stem, count in stems.items() if count > 1 and stem != "__main__"]


def no_module_hides_behind_a_public_name(package: Path) -> list[str]:
    """A function of the package and a module in it cannot both be `gemma_batch.<name>`."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    return [name for name in names if name in modules(package) or (package / name).is_dir()]


def no_engine_is_named_outside_of_engines(package: Path) -> list[str]:
    """Engines tell by themselves what they take and need; the spec has the list of their names."""
    return [
        f"{name}:{node.lineno} names {node.value!r}"
        for name, path in modules(package).items()
        if room(name) not in {"engines", "spec"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in REGISTRY
    ]


def no_module_is_long(package: Path) -> list[str]:
    lines = {n: len(p.read_text("utf-8").splitlines()) for n, p in modules(package).items()}
    return [f"{name}: {count} lines" for name, count in lines.items() if count > LONGEST]


def every_module_says_what_it_is_for(package: Path) -> list[str]:
    return [
        name
        for name, path in modules(package).items()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]


Rule = Callable[[Path], list[str]]
# Each rule, with a file that breaks it.
RULES: dict[Rule, tuple[str, str]] = {
    only_one_module_imports_vllm: ("engines/other.py", "def f():\n    import vllm.config"),
    only_cluster_and_ops_import_ray: ("driver/follow.py", "from ray import data"),
    only_storage_knows_file_systems: ("planning/survey.py", "import s3fs"),
    family_is_arithmetic_on_data: ("family/gpus.py", "import gemma_batch.storage.fs"),
    tasks_and_actors_know_no_driver: (
        "answering/feed.py",
        "from gemma_batch.reporting import report",
    ),
    every_module_is_in_a_room: ("helpers/things.py", ""),
    no_import_runs_upwards: ("units/unit.py", "from gemma_batch.answering.order import RowQueue"),
    no_circle: ("storage/interfaces.py", "def f():\n    from gemma_batch.storage import local"),
    no_two_modules_of_one_name: ("prompts/memory.py", ""),
    no_module_hides_behind_a_public_name: ("retry.py", ""),
    no_engine_is_named_outside_of_engines: ("cluster/worker.py", "if job == 'echo':\n    pass"),
    no_module_is_long: ("answering/order.py", "\n" * LONGEST),
    every_module_says_what_it_is_for: ("units/more.py", "x = 1"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    """Nothing in the package breaks it."""
    assert rule(PACKAGE) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_planted_violation_is_found(rule: Rule, tmp_path: Path) -> None:
    """The rule can fail: a copy of the package with one more line breaks it."""
    copy = tmp_path / "gemma_batch"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    name, line = RULES[rule]
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    assert rule(copy), f"{line!r} in {name} was not noticed"


def test_the_spec_lists_the_engines_there_are() -> None:
    """The one list of names outside of `engines/` is complete."""
    from gemma_batch.spec import Resources

    assert set(Resources.model_fields["engine"].annotation.__args__) == set(REGISTRY)


def test_importing_the_package_is_fast_and_light() -> None:
    """`import gemma_batch` pulls in nothing heavy and takes well under half a second."""
    code = (
        "import time; t = time.process_time(); import gemma_batch; "
        "took = time.process_time() - t; import sys; "
        "heavy = {'ray', 'vllm', 'torch', 'pyarrow', 'pydantic', 'duckdb', 'transformers'}; "
        "print(took, sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, _, loaded = out.stdout.strip().partition(" ")
    assert loaded == "[]"
    assert float(took) < 0.5


def test_the_public_api_is_what_it_says() -> None:
    """`__all__` is sorted, every name in it can be had, and `run` stays the function."""
    import gemma_batch

    assert sorted(gemma_batch.__all__) == gemma_batch.__all__
    for name in gemma_batch.__all__:
        assert getattr(gemma_batch, name) is not None
    import gemma_batch.driver.run

    assert callable(gemma_batch.run)
