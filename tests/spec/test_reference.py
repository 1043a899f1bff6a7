"""docs/spec.md says of every field what it is, as the parts of the spec do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemma_batch.spec import JobSpec
from gemma_batch.spec.reference import parts, reference
from gemma_batch.spec.yaml_text import apply_overrides

PAGE = Path(__file__).parents[2] / "docs/spec.md"
FIELDS = [
    pytest.param(name, field, id=f"{path}.{name}".strip("."))
    for path, part in parts()
    for name, field in part.model_fields.items()
]
TIMES = {"seconds": "second", "minutes": "minute", "deadline": "second", "timeout": "second"}


def test_the_page_is_what_the_spec_says() -> None:
    """A field that is added or changed is on the page, too."""
    assert PAGE.read_text(encoding="utf-8") == reference(), "docs/spec.md is old: run `make docs`"


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_field_is_described(name: str, field: object) -> None:
    """In whole sentences, with the unit of a time."""
    text = getattr(field, "description", None)
    assert text, f"write what {name!r} is below the field"
    assert text[0].isupper() or text.startswith("vLLM"), text
    assert text.endswith("."), text
    for ending, unit in TIMES.items():
        if name.endswith(ending):
            assert unit in text.lower(), f"{name!r}: name the unit"


def test_every_part_has_its_table_and_every_link_a_target() -> None:
    """Each part of the spec has a heading, in the spec's order, and links lead to headings."""
    page = reference()
    headings = re.findall(r"^## (.+)$", page, re.M)
    assert headings == ["The job", *(f"`{path}`" for path, _ in parts() if path)]
    anchors = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    for path, part in parts():
        section = page.partition(f"## `{path}`\n" if path else "## The job\n")[2].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(part.model_fields)


def test_a_default_on_the_page_means_the_same_in_a_spec() -> None:
    """What the page shows as a default can be written into a spec, and changes nothing."""
    least = {"input": {"path": "x"}, "output": {"path": "y"}, "model": "m"}
    checked = 0
    for path, _ in parts():
        if path in {"", "routes", "resources.replicas", "sampling.repetition_detection"}:
            continue
        section = reference().partition(f"## `{path}`\n")[2].split("\n## ")[0]
        more = {"tools": {"definitions": "t.json"}} if path == "tools" else {}
        job = JobSpec.from_dict(least | more)
        for name, default in re.findall(r"^\| `(\w+)` \|.*?\| `([^`|]*)` \|", section, re.M):
            data = apply_overrides(least | more, [f"{path}.{name}={default}"])
            assert JobSpec.from_dict(data) == job, f"{path}.{name}"
            checked += 1
    assert checked > 20
