"""The page of rows: whole without anything else, and no answer can break out of its box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_batch.reporting.page import report_page
from gemma_batch.reporting.sample_page import sample_page
from gemma_batch.reporting.samples import ShownAnswer, ShownRow
from gemma_batch.reporting.status import current_page
from gemma_batch.rows import Outcome, Request
from tests.reporting.outputs import failing, job_spec, says, start, tickets, write_rows
from tests.reporting.test_page import Reader, receipt, report
from tests.reporting.test_page_in_browser import look

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></div></section><h1>out",
    "<!-- comment",
    "\"'><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% for x in y %}",
    "&lt;b&gt; &#x3c;",
    "\x1b[2J\x00\u202e",
    "<style>body{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=http://x'>",
]


def hostile_row(text: str) -> ShownRow:
    """A row with the text at every place that a stranger can write to."""
    answers = (
        ShownAnswer(route=text, model=text, output=text, thinking=text, more={text: text}),
        ShownAnswer(route=text, model=text, answer={text: text}, tool_calls=[{"name": text}]),
        ShownAnswer(route=text, code=text, message=text, output=text),
    )
    kept: dict[str, Any] = {text: text}
    place: dict[str, Any] = {"shard": f"s3://b/{text}", "row_number": 3, "kept": kept}
    return ShownRow(id=text, prompt=text, note=text, answers=answers, marks=("<b>",), **place)


def checked(page: str) -> Reader:
    """Every tag is closed, nothing is loaded, and no tag is there that the page does not make."""
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "div", "p", "pre"),
        *("section", "span", "b", "table", "tr", "th", "td", "svg", "path"),
    }
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_a_text(text: str) -> None:
    """In the page of `show`, and in report.html."""
    broken = ShownRow(
        id=text, shard=text, row_number=0, prompt=None, no_prompt=text, row={text: text}
    )
    rows = [hostile_row(text), broken]
    usual = [hostile_row("usual"), ShownRow(**{**dict_of(broken), "no_prompt": "usual"})]
    for page, plain in (
        (sample_page(text, text, text, rows, [text]), sample_page("a", "b", "c", usual, ["d"])),
        (
            report_page(report(name=text), [receipt("a", 0, 50)], {}, {"a": text}, rows),
            report_page(report(), [receipt("a", 0, 50)], {}, {"a": "b"}, usual),
        ),
    ):
        reader, other = checked(page), checked(plain)
        assert reader.tags == other.tags
        assert page.count("<pre") == plain.count("<pre")


def test_signs_that_hide_something_are_spelled_out() -> None:
    """Also in the examples of failures on report.html."""
    text = "\x1b[2J\x00\u202e"
    failures = {"deadline": [{"id": text, "message": text, "output": text}]}
    page = report_page(
        report(failures={"deadline": 1}), [], failures, {}, [hostile_row(text)]
    ) + sample_page("a", "b", "c", [hostile_row(text)])
    assert not set("\x1b\x00\u202e") & set(page)
    assert "\\x1b[2J\\x00\\u202e" in page


def dict_of(row: ShownRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def long_rows() -> list[ShownRow]:
    """Everything that a row can show, with the longest of texts and words."""
    answers = [
        ShownAnswer(route="all", model="m" * 300, output="w" * 9000, finish_reason="length"),
        ShownAnswer(route="all", model="m", output="x", answer={"a": "word " * 900}, seconds=12.5),
        ShownAnswer(route="all", model="m", output="line\n" * 900, thinking="t" * 500),
        ShownAnswer(route="r" * 300, code="c" * 200, message="m" * 900, output="o" * 900),
    ]
    prompt = "<bos>" + "prompt " * 2000 + "p" * 500
    return [
        ShownRow(
            id="i" * 300,
            shard="/in/" + "f" * 200,
            row_number=10**9,
            prompt=prompt if n % 2 else None,
            no_prompt="n" * 300,
            row={"a": "v" * 300},
            note="note " * 30,
            marks=("<bos>",),
            kept={f"column_{i}": "k" * 200 for i in range(9)},
            answers=(answer,),
        )
        for n, answer in enumerate(answers * 2)
    ]


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_fits_and_can_be_read(tmp_path: Path, width: int, dark: bool) -> None:
    """On a phone in the dark and on a desktop: no sideways scrolling, texts with contrast."""
    page = sample_page("t" * 100, "s" * 200, "a sentence", long_rows(), ["note " * 40])
    seen = look(tmp_path, page, width, dark=dark)
    assert (seen["inner"], seen["dark"]) == (width, dark)
    assert seen["wide"] == []
    assert seen["scroll"] <= width
    assert seen["faint"] == []


def test_two_hundred_long_rows_are_a_page_of_a_few_megabytes() -> None:
    """Long texts lose their middle, and the page says how much."""
    page = sample_page("a", "b", "c", long_rows() * 25)
    assert len(page) < 4 * 2**20
    assert page.count("characters left out]") >= 200


@pytest.mark.parametrize(("samples", "shown"), [(None, 0), (4, 4), (0, 0)])
def test_the_report_page_shows_contents_only_when_it_is_asked(
    tmp_path: Path, model: str, samples: int | None, shown: int
) -> None:
    """`report.samples` puts rows on the page, and the answers of failures; the default is none."""
    write_rows(tmp_path, tickets(30))
    more = {} if samples is None else {"report": {"samples": samples}}
    output = start(job_spec(tmp_path, model, answer={"choice": ["yes"]}, **more))

    def answer(request: Request) -> Outcome:
        if request.number % 10 == 3:
            return failing("invalid_answer", "refused!")
        return replace(says("committed!"), values=[{"answer": "yes"}])

    for unit in output.units:
        output.commit(unit, answer)
    page = current_page(output.url)
    assert page.count('<section class="row">') == shown
    assert ("committed!" in page) is (shown > 0)
    assert ("Say text" in page) is (shown > 0)
    assert ("refused!" in page) is (shown > 0)
    assert ("holds contents of rows" in page) is (shown > 0)
    assert current_page(output.url, 7).count('<section class="row">') == 7
    assert "committed!" not in current_page(output.url, 0)
    checked(page)
