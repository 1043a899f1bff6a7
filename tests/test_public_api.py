"""The public API: every exception and name, what it says, and specs made in Python."""

from __future__ import annotations

import ast
import copy
import importlib.resources
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import gemma_batch
from gemma_batch import errors, spec
from gemma_batch.spec.spec_part import SpecPart

FUNCTIONS = [name for name in gemma_batch.__all__ if inspect.isfunction(getattr(gemma_batch, name))]
PARTS = sorted(
    name for name, one in vars(spec).items() if isinstance(one, type) and issubclass(one, SpecPart)
)
JOB: dict[str, Any] = {"input": {"path": "in.jsonl"}, "model": "m", "output": {"path": "out"}}


def test_every_exception_and_part_of_a_spec_is_public() -> None:
    """By its own name, and `dir()` shows it; the list for type checkers has the same names."""
    kinds = {
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and one.__module__ == errors.__name__
    }
    public = set(gemma_batch.__all__)
    assert kinds | set(PARTS) <= public
    assert public <= set(dir(gemma_batch))
    tree = ast.parse(Path(gemma_batch.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gemma_batch.")
        for alias in node.names
    }
    assert typed | {"__version__"} == public
    assert importlib.resources.files("gemma_batch").joinpath("py.typed").is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", gemma_batch.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gemma_batch.nothing  # noqa: B018


@pytest.mark.parametrize("name", [one for one in gemma_batch.__all__ if one != "__version__"])
def test_every_public_name_says_what_it_is(name: str) -> None:
    """A function also says which errors it raises, and these are public."""
    one = getattr(gemma_batch, name)
    text = inspect.getdoc(one) or ""
    assert len(text) > 20
    named = set(re.findall(r"`(\w+Error|ClusterLost)`", text))
    assert named <= set(gemma_batch.__all__)
    if name in FUNCTIONS:
        assert "Raises" in text
        assert named or "errors of" in text or "every error" in text
    if inspect.isclass(one):
        for method, found in vars(one).items():
            if inspect.isfunction(found) and not method.startswith("_"):
                assert inspect.getdoc(found), f"{name}.{method}"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"modle": "m"}, "did you mean 'model'?"),
    ({"sampling": {"max_tokens": -1}}, "sampling.max_tokens"),
    ({"model": None}, "give either `model` or `routes`"),
    ({"input": 3}, "input"),
    ({"policy": {"stop": {"failed_share": 7}}}, "policy.stop.failed_share"),
    (
        {"routes": [{"name": "a", "model": "m", "resources": {"gpus": 1}}], "model": None},
        "routes.a",
    ),
    ({"resources": {"engine_args": {"a": object()}}}, "JSON cannot"),
    ({"name": "x" * 3, "thinking": "perhaps"}, "thinking"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_a_spec_in_python_is_refused_as_from_dict_refuses_it(
    fields: dict[str, Any], said: str
) -> None:
    """The same sentence, and no error of pydantic."""
    with pytest.raises(gemma_batch.SpecError) as by_dict:
        gemma_batch.JobSpec.from_dict({**JOB, **fields})
    with pytest.raises(gemma_batch.SpecError) as by_call:
        gemma_batch.JobSpec(**{**JOB, **fields})
    assert str(by_call.value) == str(by_dict.value)
    assert said in str(by_call.value)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_refused_in_the_same_way(name: str) -> None:
    """Unknown fields, and values without a name."""
    part = getattr(gemma_batch, name)
    with pytest.raises(gemma_batch.SpecError, match="unknown key 'nonsense'"):
        part(nonsense=1)
    with pytest.raises(gemma_batch.SpecError, match=f"{name} takes its fields by name, such as"):
        part({"nonsense": 1})


def test_a_spec_of_parts_is_the_spec_of_plain_data() -> None:
    """And it can be copied, pickled and written."""
    made = gemma_batch.JobSpec(
        input=gemma_batch.Input(path="in.jsonl", csv=gemma_batch.Csv(delimiter=";")),
        prompt=gemma_batch.Prompt(user="{{ text }}"),
        answer=gemma_batch.Answer(choice=["yes", "no"]),
        routes=(
            gemma_batch.Route(name="long", model="a", when="length(text) > 9"),
            gemma_batch.Route(name="rest", model="b"),
        ),
        sampling=gemma_batch.Sampling(temperature=0, max_tokens=4),
        output=gemma_batch.Output(path="out", keep=("text",)),
        resources=gemma_batch.Resources(replicas=gemma_batch.Replicas(min=1, max=2)),
        policy=gemma_batch.Policy(stop=gemma_batch.Stop(minutes=5), alerts=gemma_batch.Alerts()),
    )
    assert gemma_batch.JobSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert copy.deepcopy(made) == copy.copy(made) == pickle.loads(pickle.dumps(made)) == made
    assert hash(made.sampling) == hash(gemma_batch.Sampling(temperature=0, max_tokens=4))
