"""Templates: what a row's values become, and what they can never become."""

from __future__ import annotations

import datetime
import decimal
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.errors import SpecError
from gemma_batch.prompts.template import END, START, RowProblem, Segment, Template


def text(source: str, **values: Any) -> str:
    return Template(source).render(values).text


def problem(source: str, **values: Any) -> RowProblem:
    with pytest.raises(RowProblem) as caught:
        Template(source).render(values)
    return caught.value


def test_document_text_is_told_from_the_authors() -> None:
    """Segments say which characters came from the row; constants are the author's."""
    rendered = Template("A {{ a }}{{ '{{' }} B {{ b | upper }}\n").render({"a": "x", "b": "y"})
    assert rendered.segments == [
        Segment("A ", False),
        Segment("x", True),
        Segment("{{ B ", False),
        Segment("Y", True),
        Segment("\n", False),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (0.5, "0.5"),
        (True, "True"),
        (decimal.Decimal("1.10"), "1.10"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        ({"a": "é", "b": [1, None]}, '{"a": "é", "b": [1, null]}'),
        ([datetime.date(2026, 1, 2)], '["2026-01-02"]'),
        ((1, 2), "[1, 2]"),
        ("", ""),
    ],
)
def test_values_as_text(value: Any, shown: str) -> None:
    """Lists and objects are shown as JSON, everything else as people write it."""
    assert text("{{ x }}", x=value) == shown


@pytest.mark.parametrize(
    "evil",
    [
        "{{ 7 * 7 }}",
        "{% for i in range(9) %}x{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{# note #}",
        "{{ secret }}",
        "{% raw %}",
    ],
)
def test_a_document_is_never_a_template(evil: str) -> None:
    """Template syntax in a value appears as it is."""
    assert text("{{ x }}|{% set y %}{{ x }}{% endset %}{{ y }}", x=evil, secret="s") == (
        f"{evil}|{evil}"
    )


@given(st.text(alphabet=st.sampled_from(f"{START}{END}ab<>"), max_size=30))
def test_a_document_cannot_forge_segments(value: str) -> None:
    """The marks that separate segments are taken out of values."""
    segments = Template("A{{ x }}B").render({"x": value}).segments
    clean = value.replace(START, "").replace(END, "")
    assert segments == [Segment("A", False), Segment(clean, True), Segment("B", False)]


def test_torn_marks_make_everything_document() -> None:
    """A filter that cuts through rendered text never turns document text into the author's."""
    macro = "{% macro m(v) %}Label: {{ v }}{% endmacro %}"
    rendered = Template(macro + "{{ m(x)[:9] }}").render({"x": "abcdef"})
    assert {segment.document for segment in rendered.segments} == {True}


@pytest.mark.parametrize(
    ("source", "values", "code", "named"),
    [
        ("{{ body }}", {"body": None}, "null_value", "'body'"),
        ("{{ body | upper }}", {"body": None}, "null_value", "'body'"),
        ("{{ 'a' ~ body }}", {"body": None}, "null_value", "'body'"),
        ("{{ meta.title }}", {"meta": {"title": None}}, "null_value", "'title'"),
        ("{% for x in tags %}{{ x }}{% endfor %}", {"tags": None}, "null_value", "'tags'"),
        ("{% for x in tags %}{{ x }}{% endfor %}", {"tags": [None]}, "null_value", "null"),
        ("{{ body }}", {}, "missing_field", "'body'"),
        ("{{ body | upper }}", {}, "missing_field", "'body'"),
        ("{{ meta.title }}", {"meta": {}}, "missing_field", "'title'"),
        ("{{ body }}", {"body": b"\x00"}, "bad_value", "binary"),
        ("{{ body }}", {"body": [b"\x00"]}, "bad_value", "binary"),
        ("{{ body }}", {"body": "a\ud800"}, "bad_value", "surrogate"),
        ("{{ a / b }}", {"a": 1, "b": 0}, "template_error", "ZeroDivisionError"),
        ("{{ a + 1 }}", {"a": "x"}, "template_error", "TypeError"),
        ("{{ a.items }}", {"a": {"items": 1}}, "template_error", "'items'"),
        ("{{ a.__class__ }}", {"a": "x"}, "template_error", "unsafe"),
        ("{% for i in range(n) %}{% endfor %}", {"n": 10**9}, "template_error", "Overflow"),
    ],
)
def test_row_problems(source: str, values: dict[str, Any], code: str, named: str) -> None:
    """Each kind of bad value has its code and names the place."""
    found = problem(source, **values)
    assert found.code == code
    assert named in found.message


def test_null_can_be_handled_by_the_template() -> None:
    """A null is false, equals none, is not defined, and `default` and `tojson` know it."""
    source = (
        "{{ x | default('d') }} {{ x or 'o' }} {% if x is none and x is undefined %}n{% endif %}"
        "{% if x == none and not x != none %}e{% endif %} {{ x | tojson }}"
    )
    assert text(source, x=None) == "d o ne null"
    assert text("{{ x | default('d') }} {{ x is defined }}") == "d False"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{{ body", "prompt.user, line 2"),
        ("{% if x %}", "prompt.user, line 1"),
        ("{{ x | nofilter }}", "nofilter"),
        ("{% filter upper %}{{ x }}{% endfilter %}", "{% filter %}"),
        ("\n\n{% include 'x' %}", "line 3"),
        ("{% call m() %}{% endcall %}", "{% call %}"),
    ],
)
def test_templates_that_cannot_be_used(source: str, said: str) -> None:
    """A broken template is found before anything starts, with field and line."""
    with pytest.raises(SpecError) as caught:
        Template(source)
    assert said in str(caught.value)


def test_columns() -> None:
    """`columns` are the names a row has to bring, also where one is named like a function."""
    source = "{% set t = a %}{% for i in range(b) %}{{ i }}{{ t }}{{ c.d }}{% endfor %}"
    assert Template(source).columns == {"a", "b", "c"}
    assert Template("{{ range }}").columns == {"range"}
    assert text("{{ range }} {{ dict }}", range="r", dict="d") == "r d"


def test_template_and_problem_can_be_pickled() -> None:
    """Both cross process borders."""
    template = pickle.loads(pickle.dumps(Template("{{ a }}!", field="prompt.system")))
    assert template.field == "prompt.system"
    assert template.render({"a": "x"}).text == "x!"
    found = pickle.loads(pickle.dumps(RowProblem("bad_value", "why")))
    assert (found.code, found.message, str(found)) == ("bad_value", "why", "why")
