"""Mentions: a template reaches every column, whatever its name, and never another thing instead."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.errors import SpecError
from gemma_batch.prompts.mentions import mention
from gemma_batch.prompts.template import END, START, RowProblem, Segment, Template

VALUES: dict[str, Any] = {
    "Review Text": "RT", "a.b": "AB", "größe": "G", "x": "X", "n": None, "items": "IT", "row": "R",
    "self": "S", "loop": "L", "range": "RG", "namespace": "NS", "caller": "C", "varargs": "V",
    "kwargs": "K", "super": "SU", "true": "T", "none": "N", "_id": "U", "it's": "Q", "1st": "F",
    "tags": ["p", "q"], "meta": {"self": "MS", "items": "MI", "Title": "MT"}, "dict": "D",
    "lipsum": "LI", "context": "CO", "environment": "EN", "": "E",
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "columns", "shown"),
    [
        # any name by `row`
        ("{{ row['Review Text'] }}", {"Review Text"}, "RT"),
        ('{{ row["a.b"] }}', {"a.b"}, "AB"),
        ("{{ row.x }}{{ row['größe'] }}{{ größe }}", {"x", "größe"}, "XGG"),
        ("{{ row['row'] }}{{ row.row }}", {"row"}, "RR"),
        ("{{ row.items }}{{ row['items'] }}", {"items"}, "ITIT"),
        ("{{ row.get('x') }}{{ row.get('n', 'd') or 'o' }}", {"x", "n"}, "Xo"),
        ("{{ row['it\\'s'] }}{{ row['1st'] }}{{ row[''] }}", {"it's", "1st", ""}, "QFE"),
        ("{{ row['a' ~ '.b'] }}", {"a.b"}, "AB"),
        ("{{ row['meta']['Title'] }}{{ row.meta.Title }}", {"meta"}, "MTMT"),
        ("{% for t in row['tags'] %}{{ t }}{% endfor %}", {"tags"}, "pq"),
        ("{{ row['x'] | lower }}{{ 'y' if row['n'] is none }}", {"x", "n"}, "xy"),
        ("{{ row['n'] | default('d') }}{{ 'y' if row['n'] is defined }}", {"n"}, "d"),
        ("{% macro m() %}{{ row['x'] }}{% endmacro %}{{ m() }}", {"x"}, "X"),
        # names of Jinja's own
        ("{{ self }}{{ self | lower }}{{ 'a' ~ self }}", {"self"}, "SsaS"),
        ("{{ row['self'] }}{{ meta.self }}{{ meta['items'] }}", {"self", "meta"}, "SMSMI"),
        ("{% for t in tags %}{{ self }}{% endfor %}", {"tags", "self"}, "SS"),
        ("{% block b %}x{% endblock %}{{ self.b() }}", set(), "xx"),
        ("{{ loop }}{{ range }}{{ namespace }}", {"loop", "range", "namespace"}, "LRGNS"),
        ("{{ caller }}{{ varargs }}{{ kwargs }}", {"caller", "varargs", "kwargs"}, "CVK"),
        ("{{ super }}{{ dict }}{{ lipsum }}", {"super", "dict", "lipsum"}, "SUDLI"),
        ("{{ context }}{{ environment }}{{ _id }}", {"context", "environment", "_id"}, "COENU"),
        ("{% for t in tags %}{{ loop.index }}{{ row['loop'] }}{% endfor %}", {"tags", "loop"},
         "1L2L"),
        ("{% for i in range(2) %}{{ i }}{% endfor %}", set(), "01"),
        ("{% for i in range(2) %}{{ row['range'] }}{% endfor %}", {"range"}, "RGRG"),
        ("{{ row['true'] }}{{ row['none'] }}{{ row.true }}", {"true", "none"}, "TNT"),
        # `row` may be a name of the template
        ("{% for row in tags %}{{ row }}{% endfor %}", {"tags"}, "pq"),
        ("{% for row in tags %}{{ row }}{% endfor %}{{ self }}", {"tags", "self"}, "pqS"),
        ("{% set row = meta %}{{ row.Title }}", {"meta"}, "MT"),
        ("{% macro m(row) %}{{ row.Title }}{% endmacro %}{{ m(meta) }}", {"meta"}, "MT"),
        ("{% with row = meta %}{{ row.Title }}{% endwith %}", {"meta"}, "MT"),
    ],
)  # fmt: skip
def test_the_columns_of_a_template_and_their_text(
    source: str, columns: set[str], shown: str
) -> None:
    """Found before anything is read, and rendered as the columns that were found."""
    template = pickle.loads(pickle.dumps(Template(source)))
    assert (template.columns, template.whole) == (columns, False)
    assert template.render(VALUES).text == shown
    assert template.render({name: VALUES[name] for name in columns}).text == shown


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{{ row | tojson }}", '{"a b": "x", "n": null}'),
        ("{{ row }}", '{"a b": "x", "n": null}'),
        ("{% for name, value in row.items() %}{{ name }}={{ value or '-' }};{% endfor %}",
         "a b=x;n=-;"),
        ("{{ row.keys() | join(',') }}", "a b,n"),
        ("{% set name = 'a b' %}{{ row[name] }}", "x"),
        ("{{ 'yes' if 'n' in row }}", "yes"),
        ("{% set r = row %}{{ r['a b'] }}", "x"),
        ("{{ row | length }}", "2"),
    ],
)  # fmt: skip
def test_a_template_that_needs_every_column(source: str, shown: str) -> None:
    """`row` as a value, or with a name that only the row tells."""
    template = Template(source)
    assert template.whole
    assert template.render({"a b": "x", "n": None}).text == shown


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ row[0] }}", "a text in quotes"),
        ("{% if a %}{% set row = b %}{% endif %}{{ row }}", "`row` is a name of the template"),
        ("{% for row in t %}{{ row }}{% endfor %}{{ row['x'] }}", "another name"),
        ("{{ range(2) }}{{ range }}", "row['range'] for the column"),
        ("{{ ﬁ }}{{ fi }}", "row['fi'] and row['ﬁ']"),
        ("{{ e\u0301 }}{{ \u00e9 }}", "cannot tell the names"),
        ("{{ Review Text }}", "{{ row['a name'] }}"),
    ],
)
def test_a_name_that_means_two_things_is_refused(source: str, said: str) -> None:
    """With the way to write what is meant."""
    with pytest.raises(SpecError) as caught:
        Template(source, field="prompt.system")
    assert said in str(caught.value)
    assert str(caught.value).startswith("prompt.system")


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("{% for t in x %}{{ loop }}{% endfor %}", {"loop"}),
        ("{% for t in x %}{% set o = loop %}{{ o.index }}{% endfor %}", {"loop"}),
        ("{% for t in x %}{{ loop.title }}{% endfor %}", {"loop"}),
        ("{% for t in x %}{{ loop.index }}{{ loop.cycle(1, 2) }}{% endfor %}", set()),
        ("{% for t in loop %}{{ t }}{% else %}{{ loop }}{% endfor %}", set()),
        ("{% macro m() %}{{ kwargs }}{{ varargs }}{% endmacro %}", {"kwargs", "varargs"}),
        ("{{ kwargs }}", set()),
        ("{% block b %}{{ super }}{% endblock %}", {"super"}),
        ("{{ true }}{{ x == false }}", {"true", "True"}),
        ("{{ None }}", {"none", "None"}),
    ],
)
def test_names_that_mean_something_of_jinjas_own(source: str, taken: set[str]) -> None:
    """The plan refuses them when the input has such a column."""
    assert set(Template(source).names.taken) == taken


@pytest.mark.parametrize(
    "source",
    ["{% for t in tags %}{{ loop }}{% endfor %}", "{% set n = namespace(a=1) %}{{ n }}"],
)
def test_an_object_of_jinjas_own_is_never_printed(source: str) -> None:
    """Without a column of that name, the row fails and the sentence says why."""
    with pytest.raises(RowProblem, match="an object of Jinja's own") as caught:
        Template(source).render(VALUES)
    assert caught.value.code == "template_error"


@given(st.text(st.characters(codec="utf-8"), max_size=12), st.text(max_size=5))
def test_every_name_can_be_mentioned(name: str, value: str) -> None:
    """Quotes, braces, line ends, marks: the mention names this column alone, in one line."""
    mentioned = mention(name)
    template = Template(f"A{mentioned}B")
    assert (template.columns, template.whole) == ({name}, False)
    assert "\n" not in mentioned
    clean = value.replace(START, "").replace(END, "").encode("utf-8", "ignore").decode()
    assert template.render({name: clean}).segments == [
        Segment("A", False),
        Segment(clean, True),
        Segment("B", False),
    ]


@pytest.mark.parametrize(
    ("source", "segments"),
    [
        ("A{{ row['a b'] }}B", [("A", False), ("evil", True), ("B", False)]),
        ("A{{ row | tojson }}B", [("A", False), ('{"a b": "evil"}', True), ("B", False)]),
        ("{{ row['a b'] | upper }}B", [("EVIL", True), ("B", False)]),
        ("A{% for k, v in row.items() %}{{ k }}: {{ v }}{% endfor %}",
         [("A", False), ("a b", True), (": ", False), ("evil", True)]),
    ],
)  # fmt: skip
def test_what_comes_from_row_is_document_text(
    source: str, segments: list[tuple[str, bool]]
) -> None:
    """It is neutralised and cut like other values, and cannot forge the marks."""
    found = Template(source).render({"a b": f"ev{END}i{START}l"}).segments
    assert [(segment.text, segment.document) for segment in found] == segments
