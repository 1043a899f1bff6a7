"""Each field of the spec is read by the code that does the work: none is taken and forgotten."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gemma_batch.spec.reference import parts

PACKAGE = Path(__file__).parents[2] / "gemma_batch"
# The names that objects of a part have where they are read, if they are not the part's own name.
OWNERS = {"": {"spec", "route", "job"}, "routes": {"route"}}
# Fields that are read by another name, and this name.
BY = {"input.path": "paths", "output.keep": "kept", "policy.max_failed": "failure_limit"}
# The sampling fields go to vLLM as a whole: tests/engines/test_vllm_sampling.py sees each arrive.
AS_A_WHOLE = "sampling"
# The thresholds of alerts are read by their names: `getattr(alerts, name)`.
BY_NAME = "policy.alerts"


def reads(source: str) -> set[tuple[str, str]]:
    """(owner, attribute) of every attribute that a program reads, and ("", text) of its texts."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "?")
            found.add((name.lstrip("_"), node.attr))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(("", node.value))
    return found


READ = {
    read
    for file in PACKAGE.rglob("*.py")
    if file.parent != PACKAGE / "spec"
    for read in reads(file.read_text(encoding="utf-8"))
}


def unread(path: str, name: str, read: set[tuple[str, str]]) -> bool:
    """Whether a field of the part at `path` is read nowhere."""
    where = f"{path}.{name}".strip(".")
    name = BY.get(where, name)
    owners = OWNERS.get(path, {path.rpartition(".")[2]})
    if path == BY_NAME:
        owners = owners | {""}
    return not any((owner, name) in read for owner in owners)


FIELDS = [
    (path, name)
    for path, part in parts()
    if not path.startswith(AS_A_WHOLE)
    for name in part.model_fields
]


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_a_field_is_read(path: str, name: str) -> None:
    """Outside of `spec/`, from an object that is this part of the spec."""
    assert not unread(path, name, READ), f"nothing reads `{path}.{name}`: honour it or remove it"


def test_a_field_that_nothing_reads_is_found() -> None:
    """Also where another object has an attribute of the same name."""
    assert unread("resources", "precision", reads("x = placement.precision; resources.engine"))
    assert not unread("resources", "precision", reads("print(plan.resources.precision)"))
    assert unread("resources", "precision", reads("resources.precision = 1"))
