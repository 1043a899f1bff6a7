"""The columns of `answer.confidence`: what the numbers are, and when there are none."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.answering.answers import Sample
from gemma_batch.answering.closed_values import closed_spans
from gemma_batch.answering.confidence import Confidence, quantile
from gemma_batch.answering.shapes import shape_of
from gemma_batch.errors import SpecError
from gemma_batch.rows import Completion
from gemma_batch.spec import Answer, JobSpec
from gemma_batch.units.asked import Asked
from tests.answering.test_feed import good

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bill", "billing"]},
        "sure": {"type": ["boolean", "null"]},
        "note": {"type": "string"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "best": {"anyOf": [{"$ref": "#/$defs/Part"}, {"type": "null"}]},
    },
    "$defs": {
        "Part": {
            "type": "object",
            "properties": {"color": {"const": "red"}, "inside": {"$ref": "#/$defs/Part"}},
        }
    },
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"kind":"bill"}', [("kind", '"bill"')]),
        ('{"note":"a \\" \\" {[","sure":null}', [("sure", "null")]),
        (
            '{ "parts" : [ {"color":"red"}, {"inside": {"color" : "red"} } ] , "sure":true }',
            [
                ("parts[0].color", '"red"'),
                ("parts[1].inside.color", '"red"'),
                ("sure", "true"),
            ],
        ),
        ('{"best":{"color":"red"},"parts":[]}', [("best.color", '"red"')]),
        ('{"best":null,"unknown":{"kind":"bill"}}', []),
        ('{"kind":"bi', []),
        ("", []),
        ("[" * 20000, []),
    ],
)
def test_closed_values_are_found(text: str, expected: list[tuple[str, str]]) -> None:
    """Enums, constants and booleans, by their path, with the characters that they take."""
    found = [(path, text[begin:end]) for path, begin, end in closed_spans(SCHEMA, text)]
    assert found == expected


def test_a_schema_that_leads_to_itself_ends() -> None:
    """Also through alternatives, and without an end in sight."""
    loop = {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/A"}], "$defs": {"A": {"$ref": "#"}}}
    assert closed_spans(loop, '{"a":true}') == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [([-2.0], -2.0), ([-1.0, -3.0], -2.8), ([-float(n) for n in range(11)], -9.0)],
)
def test_the_low_quantile(values: list[float], expected: float) -> None:
    """As numpy's default: between two neighbours in proportion."""
    assert quantile(values, 0.1) == pytest.approx(expected)


END = ("<end_of_turn>", -0.5)
CHOICE = Answer(choice=("no", "none", "other"), confidence=True)


@pytest.mark.parametrize(
    ("answer", "whole", "text", "tokens", "expected"),
    [
        # An end that nothing else could follow does not count: its token is one of several.
        (
            CHOICE,
            "other",
            "other",
            [("oth", -1.0), ("er", -0.25), END],
            {"logprob": -1.75, "low": -0.9, "label": math.exp(-1.25)},
        ),
        # Here the end is what makes the label another one than `none`.
        (
            CHOICE,
            "no",
            "no",
            [("no", -1.0), END],
            {"logprob": -1.5, "low": -0.95, "label": math.exp(-1.5)},
        ),
        (
            CHOICE,
            "no",
            "no",
            [("no", -1.0)],
            {"logprob": -1.0, "low": -1.0, "label": math.exp(-1.0)},
        ),
        # Another reader has taken the thoughts out: their tokens are none of the answer's.
        (
            CHOICE,
            "I think: none",
            "none",
            [("I think", -7.0), (": ", -3.0), ("no", -0.5), ("ne", -0.5), END],
            {"logprob": -1.5, "low": -0.5, "label": math.exp(-1.0)},
        ),
        (Answer(confidence=True), "", "", [END], {"logprob": -0.5, "low": -0.5}),
        (Answer(confidence=True), "a dry run", "a dry run", [], None),
        (
            Answer(schema=SCHEMA, confidence=True),
            '{"kind":"bill","sure":true}',
            '{"kind":"bill","sure":true}',
            [('{"kind":', 0.0), ('"bill', -1.0), ('","', -0.25), ('sure":', 0.0), ("true}", -2.0)],
            {
                "logprob": -3.25,
                "low": -1.6,
                "fields": [("kind", math.exp(-1.25)), ("sure", math.exp(-2.0))],
            },
        ),
        # Tokens that do not make up the text say nothing of its parts.
        (
            Answer(schema=SCHEMA, confidence=True),
            '{"sure":true}',
            '{"sure":true}',
            [("?", -1.0), END],
            {"logprob": -1.5, "low": -0.95, "fields": None},
        ),
    ],
)
def test_the_numbers(
    answer: Answer,
    whole: str,
    text: str,
    tokens: list[tuple[str, float]],
    expected: dict[str, Any] | None,
) -> None:
    """The answer's own tokens, and for closed values the product of their probabilities."""
    reader = Confidence(answer)
    sample = Sample(text, "stop", whole=whole, tokens=tokens)
    assert reader.read(sample) is None
    assert sample.text == text
    ((name, kind),) = reader.details()
    found = sample.values.get(name)
    if found is None or expected is None:
        assert found is expected
    else:
        assert found.keys() == expected.keys() == {field.name for field in kind}
        assert dict(found.pop("fields", None) or {}) == pytest.approx(
            dict(expected.pop("fields", None) or {})
        )
        assert found == pytest.approx(expected)
    assert pa.array([sample.values.get(name)], kind).type == kind


def test_two_answers_of_a_row_have_two_confidences(tmp_path: Any) -> None:
    """And people can ask for a field's probability by its path."""
    asked = Asked(answer=Answer(schema=SCHEMA, confidence=True))
    shape = shape_of({"n": 2, "max_tokens": 9, "logprobs": 0}, asked)
    assert not shape.logprobs, "no column of raw log probabilities"
    texts = ['{"kind":"bill"}', '{"sure":null}']
    parts = [[(texts[0], -1.0)], [(texts[1], -2.0)]]
    completion = Completion(texts, ["stop"] * 2, 5, 2, token_logprobs=parts)
    assert shape.check(completion, good(1)) is None
    (kind,) = [kind for name, kind in shape.details() if name == "confidence"]
    column = pa.array(shape.columns([completion])["confidence"], kind)
    pq.write_table(pa.table({"confidence": column}), tmp_path / "x.parquet")
    source = f"(SELECT unnest(confidence) c FROM '{tmp_path}/x.parquet')"
    rows = duckdb.sql(f"SELECT c.logprob, c.fields['kind'], c.fields['sure'] FROM {source}")
    assert rows.fetchall() == [
        (-1.0, pytest.approx(math.exp(-1.0)), None),
        (-2.0, None, pytest.approx(math.exp(-2.0))),
    ]


def test_one_engine_takes_one_request_for_log_probabilities() -> None:
    """Refused in a sentence, before anything starts."""
    spec = {
        "input": {"path": "x.parquet"},
        "prompt": {"user": "{{ a }}"},
        "model": "gemma-3-1b-it",
        "output": {"path": "out"},
        "answer": {"confidence": True},
    }
    assert JobSpec.from_dict(spec).answer.confidence
    with pytest.raises(SpecError, match=r"`answer\.confidence` and `sampling\.logprobs` are two"):
        JobSpec.from_dict({**spec, "sampling": {"logprobs": 0}})
