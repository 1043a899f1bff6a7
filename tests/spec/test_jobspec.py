"""Promise 7 for the spec: what is wrong is said in one clear sentence, before anything starts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import apply_overrides, parse_yaml

BASE: dict[str, Any] = {
    "name": "tickets",
    "input": {"path": "s3://in/*.parquet", "id": "ticket_id"},
    "prompt": {"user": "{{ body }}"},
    "model": "google/gemma-3-4b-it",
    "output": {"path": "s3://out/x/"},
}


PRICE = {"price_per_hour": 2.5}


def with_(**changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(BASE)
    for path, value in changes.items():
        node = data
        *parents, last = path.split("__")
        for part in parents:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return data


def test_a_spec_survives_the_round_trip_through_plain_data() -> None:
    """The manifest keeps the spec as plain data: it must mean the same afterwards."""
    spec = JobSpec.from_dict(
        with_(
            sampling__stop=["a", "b"],
            sampling__temperature=0,
            resources__replicas={"min": 1, "max": 4},
            output__keep=["ticket_id"],
        )
    )
    assert JobSpec.from_dict(spec.to_dict()) == spec
    assert spec.output.path == "s3://out/x"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"promt": {}}, "promt: unknown key 'promt'; did you mean 'prompt'?"),
        ({"sampling__temprature": 1}, "sampling.temprature: unknown key 'temprature'; did you"),
        ({"resources__replicas": {"min": 1, "mx": 2}}, "resources.replicas.mx: unknown key 'mx'"),
        ({"resources__replicas": {"min": 3, "max": 2}}, "min=3 is above max=2"),
        ({"resources__replicas": 0}, "resources.replicas: input should be 'auto'"),
        ({"input__path": None}, "input.path: is required"),
        ({"sampling__max_tokens": 0}, "sampling.max_tokens: input should be greater than 0, not 0"),
        ({"sampling__n": 2, "sampling__temperature": 0}, "n=2 with temperature 0"),
        ({"model": None}, "give either `model` or `routes`"),
        ({"output__keep": "a"}, "output.keep: give a list of names, such as [customer]"),
        ({"output__keep": [2024]}, "output.keep: 2024 is no name of a column: give a list"),
        ({"output__keep": {"a": ["b"]}}, "output.keep: ['b'] is no name of a column"),
        ({"output__keep": ["a", {"a": "b"}]}, "'a' and 'b', would have the name 'a'"),
        ({"prompt__messages": "m"}, "`user` and `messages` exclude each other"),
        ({"prompt__last_answer": "drop"}, "`last_answer` is about conversations"),
        ({"policy__max_failed": "x%"}, "'x%' is neither a number of rows nor a share"),
        ({"model": None, "routes": [{"name": "A-b", "model": "m"}]}, "'A-b' is no route name"),
        (
            {"model": None, "routes": [{"name": "a", "model": "m", "when": "x > 1"}]},
            "end with a route without `when`",
        ),
        (
            {"model": None, "routes": [{"name": "a", "model": "m"}, {"name": "b", "model": "m"}]},
            "route 'a' has no `when`",
        ),
        (
            {
                "model": None,
                "routes": [{"name": "a", "model": "m", "resources": {"tensor_paralel": 2}}],
            },
            "routes.a.resources.tensor_paralel: unknown key 'tensor_paralel'; did you mean",
        ),
        (
            {
                "model": None,
                "routes": [{"name": "a", "model": "m", "resources": {"gpu": "H100-80"}}],
            },
            "routes.a.resources.gpu: a plan is for one kind of GPU",
        ),
        ({"policy__budget": {"gpu_hours": 0}}, "policy.budget.gpu_hours: input should be greater"),
        ({"policy__budget": {"gpus": 4}}, "policy.budget.gpus: unknown key 'gpus'"),
        (
            {"policy__budget": {"cost": 20}},
            "`policy.budget.cost` is 20, and nothing says what an hour costs: set "
            "`resources.price_per_hour`, or use `policy.budget.gpu_hours`",
        ),
        (
            {
                "model": None,
                "policy__budget": {"cost": 20},
                "routes": [
                    {"name": "a", "model": "m", "when": "x > 1", "resources": PRICE},
                    {"name": "b", "model": "m"},
                ],
            },
            "nothing says what an hour costs for route 'b'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_valid_key(
    changes: dict[str, Any], sentence: str
) -> None:
    """One sentence, with the field's path as the person wrote it."""
    with pytest.raises(SpecError) as caught:
        JobSpec.from_dict(with_(**changes))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy__budget": {"gpu_hours": 4}},
        {"policy__budget": {"cost": 20}, "resources": PRICE},
        {
            "policy__budget": {"cost": 20},
            "model": None,
            "routes": [{"name": "a", "model": "m", "resources": PRICE}],
        },
        {"policy__budget": {}},
    ],
)
def test_a_budget_in_money_needs_a_price(changes: dict[str, Any]) -> None:
    """Of the job or of each route; a budget in hours needs none."""
    spec = JobSpec.from_dict(with_(**changes))
    assert spec.policy.budget.is_set == bool(changes["policy__budget"])


def test_set_overrides_fields_and_list_entries() -> None:
    """--set a.b=c parses the value as YAML and reaches into lists by index."""
    data = with_(model=None, routes=[{"name": "r", "model": "m"}])
    found = apply_overrides(
        data, ["sampling.max_tokens=7", "routes.0.model=other", "output.keep=[a, b]", "name="]
    )
    assert found["sampling"] == {"max_tokens": 7}
    assert found["routes"][0]["model"] == "other"
    assert found["output"]["keep"] == ["a", "b"]
    assert "sampling" not in data, "the given data is left as it was"


@pytest.mark.parametrize("bad", ["a", "=1", "name.x=1", "routes.7.model=x"])
def test_set_refuses_what_it_cannot_apply(bad: str) -> None:
    """A wrong --set is quoted back."""
    with pytest.raises(SpecError, match="--set"):
        apply_overrides(with_(routes=[]), [bad])


@pytest.mark.parametrize(
    ("value", "rows", "limit"),
    [(0, 100, 0), (5, 100, 5), ("1%", 1000, 10), ("0.5%", 1000, 5), (0.01, 1000, 10), (3.0, 9, 3)],
)
def test_max_failed_is_rows_or_a_share(value: Any, rows: int, limit: int) -> None:
    """policy.max_failed: a number of rows, a share below 1, or a percentage."""
    spec = JobSpec.from_dict(with_(policy__max_failed=value))
    assert spec.policy.failure_limit(rows) == limit


def test_yaml_is_loaded_safely(tmp_path: Path) -> None:
    """A spec can't construct Python objects."""
    text = "name: !!python/object/apply:os.system ['touch x']"
    with pytest.raises(SpecError, match="not valid YAML at line 1"):
        parse_yaml(text, where="job.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([*JobSpec.model_fields]),
)
def test_any_plain_data_gives_a_spec_or_a_spec_error(value: Any, field: str) -> None:
    """Whatever YAML can hold in any field, the answer is never a traceback."""
    data = {**BASE, field: value}
    said = "fine"
    try:
        JobSpec.from_dict(data)
    except SpecError as err:
        said = str(err)
    assert said


def test_the_starter_example_of_the_design_is_valid() -> None:
    """The contract with users: the documented spec loads."""
    text = """
name: support-tickets
input: {path: "s3://tickets/2026/*.parquet", id: ticket_id}
prompt:
  system: You classify support tickets.
  user: "Subject: {{ subject }}\\n\\n{{ body }}"
routes:
  - {name: long, when: "length(body) > 12000", model: google/gemma-3-27b-it}
  - {name: rest, model: google/gemma-3-4b-it}
sampling: {temperature: 0, max_tokens: 128}
output: {path: "s3://tickets-out/2026", keep: [ticket_id, customer]}
resources: {replicas: auto}
"""
    spec = JobSpec.from_dict(yaml.safe_load(text))
    assert [route.name for route in spec.effective_routes] == ["long", "rest"]
    assert spec.sampling.engine_params() == {"temperature": 0, "max_tokens": 128}


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"max_failed": float("inf")}},
        {"policy": {"row_deadline": float("nan")}},
        {"resources": {"engine_args": {"seed": b"\xff\xfe"}}},
    ],
)
def test_values_that_no_file_could_hold_are_refused(change: dict[str, Any]) -> None:
    """Through the Python API too, so that the manifest can always be written."""
    with pytest.raises(SpecError):
        JobSpec.from_dict(with_(**change))
