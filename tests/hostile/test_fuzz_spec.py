"""Specs, overrides and kept values of any kind: refused in our own words, or kept as they are."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_batch.errors import SpecError
from gemma_batch.spec import JobSpec
from gemma_batch.spec.yaml_text import apply_overrides, parse_yaml
from gemma_batch.storage.keep import as_json, check_keep, keep_column, keep_value
from tests.examples import examples

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.too_slow],
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.dates()
    | st.binary(max_size=4)
)
# What YAML can give: keys need not be text.
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = {
    "name": None,
    "input": ["path", "format", "id"],
    "prompt": ["system", "user", "messages", "params", "overlong"],
    "model": None,
    "revision": None,
    "routes": ["name", "model", "revision", "when", "resources"],
    "sampling": ["n", "max_tokens", "min_tokens", "temperature", "seed", "stop", "logit_bias"],
    "output": ["path", "keep"],
    "resources": ["engine", "replicas", "engine_args", "tensor_parallel", "max_model_len"],
    "policy": ["max_failed", "unit_rows", "stop", "row_deadline"],
}
VALID = {
    "input": {"path": "in/*.parquet", "id": "id"},
    "prompt": {"user": "{{ body }}"},
    "model": "google/gemma-3-1b-it",
    "output": {"path": "out"},
}
STOPS = st.text(min_size=1, max_size=3)


def near_specs() -> st.SearchStrategy[dict[Any, Any]]:
    """A valid spec with some known fields set to anything at all."""
    changes = []
    for name, below in FIELDS.items():
        if below is None:
            changes.append(st.tuples(st.just(name), ANYTHING))
        else:
            part = st.dictionaries(st.sampled_from(below), ANYTHING, max_size=3)
            changes.append(st.tuples(st.just(name), part | st.lists(part, max_size=2)))
    return st.lists(st.one_of(changes), max_size=3).map(lambda pairs: {**VALID, **dict(pairs)})


@FUZZ
@given(data=ANYTHING | near_specs())
def test_a_spec_of_any_data_validates_or_is_refused(data: Any) -> None:
    """`SpecError` and nothing else; what validates gives an equal spec back."""
    if not isinstance(data, dict):
        return
    try:
        spec = JobSpec.from_dict(data)
    except SpecError:
        return
    assert JobSpec.from_dict(spec.to_dict()) == spec


@FUZZ
@given(
    user=st.text(max_size=30),
    path=st.text(max_size=10).filter(str.strip),
    temperature=st.none() | st.floats(0, 2),
    stop=st.none() | STOPS | st.lists(STOPS, max_size=2),
    bias=st.none() | st.dictionaries(st.integers(0, 99), st.floats(-9, 9), max_size=2),
    engine_args=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=3)),
    max_failed=st.integers(0, 9) | st.floats(0, 0.9) | st.just("0.5%"),
)
def test_a_valid_spec_survives_yaml(
    user: str,
    path: str,
    temperature: float | None,
    stop: Any,
    bias: Any,
    engine_args: dict[str, Any],
    max_failed: Any,
) -> None:
    """To plain data, to a YAML file and back: the same spec."""
    spec = JobSpec.from_dict(
        {
            **VALID,
            "prompt": {"user": user},
            "output": {"path": path},
            "sampling": {"temperature": temperature, "stop": stop, "logit_bias": bias},
            "resources": {"engine_args": engine_args},
            "policy": {"max_failed": max_failed},
        }
    )
    text = yaml.safe_dump(spec.to_dict())
    assert JobSpec.from_dict(parse_yaml(text, where="job.yaml")) == spec


@FUZZ
@given(
    text=st.text(alphabet="a:-{}[]&*!|>\n \"'#%@`,?0=~<\t\r\x00\x85\ud800", max_size=40)
    | st.text(max_size=30)
)
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    """A YAML file of anything: a mapping, or one `SpecError` that names the file."""
    try:
        found: Any = parse_yaml(text, where="job.yaml")
    except SpecError as err:
        found = str(err)
    assert isinstance(found, dict) or "'job.yaml'" in found


PATHS = st.lists(
    st.sampled_from([*FIELDS, "routes", "0", "1", "-1", "\u00b2", "path", "user", "", "n"])
    | st.text(max_size=3),
    max_size=4,
).map(".".join)


@FUZZ
@given(
    data=near_specs(),
    overrides=st.lists(
        st.tuples(PATHS, st.text(alphabet="a:-{}[]&*!|>\n 0=1.e_<~'\"", max_size=12)).map("=".join)
        | st.text(max_size=12),
        max_size=3,
    ),
)
def test_any_override_is_applied_or_refused(data: dict[Any, Any], overrides: list[str]) -> None:
    """`SpecError` and nothing else, and the data that was given stays as it was."""
    before = repr(data)
    with contextlib.suppress(SpecError):
        JobSpec.from_dict(apply_overrides(data, overrides))
    assert repr(data) == before


VALUES = st.recursive(
    SCALARS
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.times()
    | st.timedeltas()
    | st.decimals()
    | st.text(alphabet="a\ud800\x00", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
KINDS = [
    pa.null(), pa.string(), pa.large_string(), pa.bool_(), pa.int8(), pa.uint64(), pa.int64(),
    pa.float32(), pa.float64(), pa.binary(), pa.binary(2), pa.date32(), pa.date64(),
    pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.time32("ms"), pa.time64("us"),
    pa.duration("us"), pa.decimal128(5, 2), pa.list_(pa.int64()), pa.list_(pa.string(), 2),
    pa.struct([("a", pa.int64()), ("b", pa.string())]), pa.map_(pa.string(), pa.int64()),
    pa.list_(pa.struct([("a", pa.list_(pa.timestamp("us")))])), pa.month_day_nano_interval(),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(FUZZ, max_examples=examples(80))
@given(value=VALUES)
def test_any_value_is_kept_whole_or_refused(kind: pa.DataType, value: Any) -> None:
    """`check_keep` raises ValueError and nothing else; what it passes builds a column."""
    schema = pa.schema([("kept", kind)])
    refusal = ""
    try:
        check_keep({"kept": value}, schema)
    except ValueError as err:
        refusal = str(err)
    column = keep_column([value, None], kind)
    if refusal:
        assert "'kept'" in refusal
        assert column.to_pylist() == [None, None]
        return
    assert column.type == kind
    pa.array([keep_value(value, kind)], kind).validate(full=True)
    assert (column.null_count == 2) == (value is None)


@FUZZ
@given(value=VALUES)
def test_any_row_has_a_json_form(value: Any) -> None:
    """The `row` of an error is valid JSON whatever the row held."""
    text = as_json({"value": value})
    assert json.loads(text).keys() == {"value"}
    assert "NaN" not in text or "NaN" in repr(value)


@pytest.mark.parametrize("value", [[[[[["x" * 10**6]]]]] * 1000, "x" * 10**6, b"x" * 10**6])
def test_a_refusal_is_short_whatever_the_value_is(value: Any) -> None:
    """It becomes the message of a row's failure; a document of megabytes must not."""
    with pytest.raises(ValueError, match="'kept'") as caught:
        check_keep({"kept": value}, pa.schema([("kept", pa.int64())]))
    assert len(str(caught.value)) < 1000


def test_decimals_beyond_the_type_are_refused() -> None:
    """A number that does not fit is refused rather than rounded."""
    with pytest.raises(ValueError, match="'kept'"):
        check_keep({"kept": decimal.Decimal("1.005")}, pa.schema([("kept", pa.decimal128(5, 2))]))
