"""Prompt templates: Jinja over the columns of one row, in a sandbox.

The rendered text is split into literal text, which the template's author wrote, and document text,
which comes from the row. Only document text may be neutralised or cut. Every value from the row is
put between two noncharacters. These noncharacters are first removed from the value, so that a
document cannot forge them. This module knows nothing about models. The trade-offs: the whole
output of a macro or a `{% set %}` block counts as document text, and `{% filter %}`, `{% call %}`
and imports are refused, because the noncharacters in their output could get lost.
"""

from __future__ import annotations

import decimal
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import Frame
from jinja2.runtime import LoopContext, TemplateReference
from jinja2.utils import Namespace

from gemma_batch.errors import FailureCode, SpecError
from gemma_batch.prompts.mentions import OWN_ROW, ROW, names_of
from gemma_batch.prompts.sandbox import BoundedEnvironment, BoundedGenerator, bounded_range

MAX_INDENT = 100
START, END = "\ufdd0", "\ufdd1"
FUNCTIONS = {"range": bounded_range, "namespace": Namespace}
# Objects of Jinja's own, which have no text.
OWN_OBJECTS: dict[type, str] = {
    LoopContext: "loop", TemplateReference: "self", Namespace: "namespace()",
}  # fmt: skip
REFUSED: dict[type[nodes.Node], str] = {
    nodes.FilterBlock: "{% filter %}",
    nodes.CallBlock: "{% call %}",
    nodes.Include: "{% include %}",
    nodes.Import: "{% import %}",
    nodes.FromImport: "{% from %}",
    nodes.Extends: "{% extends %}",
}


class RowProblem(Exception):
    """Why one row cannot become a request. `code` is a `FailureCode` value. Can be pickled."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = str(code), message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt; `document` is true when the text came from the row."""

    text: str
    document: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """One rendered template: its segments in order; literal and document segments alternate."""

    segments: list[Segment]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments)


class _NullError(jinja2.UndefinedError):
    """A template used a null like a value."""


class _Null(jinja2.StrictUndefined):
    """A null of a row: false, equal to none, replaced by `default()`, an error when printed.

    With Python's None, `{{ body | upper }}` would put the word NONE into a prompt.
    """

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return f"{self._undefined_name!r} is null"

    # StrictUndefined types these as never returning.
    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, _Null)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(None)


def _null(name: object) -> _Null:
    return _Null(name=str(name), exc=_NullError)


class _Literals(BoundedGenerator):
    """Counts text constants such as `{{ "{{" }}` as literal text: the author wrote them."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if isinstance(node, nodes.Const) and isinstance(node.value, str):
            return node.value
        return super()._output_child_to_const(node, frame, finalize)


class _Row(dict[str, Any]):
    """All columns of the row, which a template names `row`; `row.items` is a column as well."""


class _Environment(BoundedEnvironment):
    code_generator_class = _Literals

    def getitem(self, obj: Any, argument: Any) -> Any:
        found = super().getitem(obj, argument)
        return _null(argument) if found is None else found

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, _Row) and attribute in obj:
            return self.getitem(obj, attribute)
        found = super().getattr(obj, attribute)
        return _null(attribute) if found is None else found


@functools.cache
def _environment() -> _Environment:
    env = _Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        finalize=_mark,
        keep_trailing_newline=True,
    )
    env.globals = dict(FUNCTIONS)
    env.filters["tojson"] = _filter_tojson
    env.tests["none"] = lambda value: value is None or isinstance(value, _Null)
    return env


def _missing(value: Any) -> bool:
    return isinstance(value, jinja2.Undefined) and not isinstance(value, _Null)


def _mark(value: Any) -> str:
    text = _to_text(value)
    if START in text or END in text:
        text = text.replace(START, "").replace(END, "")
    return f"{START}{text}{END}"


def _to_text(value: Any) -> str:
    if isinstance(value, str):  # str() turns subclasses such as Markup into plain text
        return str(value)
    if value is None:
        raise RowProblem(FailureCode.NULL_VALUE, "a value that the prompt prints is null")
    if (own := OWN_OBJECTS.get(type(value))) is not None:
        raise RowProblem(
            FailureCode.TEMPLATE_ERROR,
            f"the prompt prints {own!r}, which is an object of Jinja's own: write row['name'] "
            "where a column of that name is meant",
        )
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, list | tuple | dict | set | frozenset):
        return to_json(value)
    if callable(value) and not isinstance(value, jinja2.Undefined):
        name = getattr(value, "__name__", "it")
        raise RowProblem(
            FailureCode.TEMPLATE_ERROR,
            f"the prompt prints the function {name!r}: call it with (), or write ['{name}'] "
            "where a field of that name is meant",
        )
    return _plain(value)


def _plain(value: Any) -> str:
    """`str(value)`; raises `RowProblem` for bytes, because bytes have no text."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise RowProblem(
            FailureCode.BAD_VALUE,
            f"a value that the prompt prints is binary ({len(value):,} bytes), not text; if it is "
            "text in UTF-8, declare the column in input.schema as string",
        )
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"  # str() may choose an exponent: 0E-10
    return str(value)


def to_json(value: Any, **options: Any) -> str:
    """JSON for people: no ASCII escapes, other types by `str`. Raises `RowProblem` for bytes."""

    def other(item: Any) -> Any:
        if isinstance(item, _Null):
            return None
        return sorted(item, key=str) if isinstance(item, set | frozenset) else _plain(item)

    try:
        return json.dumps(value, ensure_ascii=False, default=other, **options)
    except TypeError:  # keys of a map that are neither text nor numbers
        return json.dumps(_text_keys(value), ensure_ascii=False, default=other, **options)


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        plain = str | int | float | bool | None
        return {k if isinstance(k, plain) else _plain(k): _text_keys(v) for k, v in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list | tuple) else value


def _filter_tojson(value: Any, indent: int | None = None) -> str:
    if _missing(value):
        str(value)  # raises the error of StrictUndefined
    return to_json(value, indent=min(indent, MAX_INDENT) if indent is not None else None)


class Template:
    """One field of the prompt, compiled once. `field` is its name in errors, e.g. `prompt.user`.

    Raises `SpecError`, with the line, when the text is not a valid template.
    """

    def __init__(self, source: str, *, field: str = "prompt.user") -> None:
        self.source, self.field = source, field
        env = _environment()
        try:
            tree = env.parse(source)
            for node in tree.find_all(tuple(REFUSED)):
                raise SpecError(
                    f"{field}, line {node.lineno}: {REFUSED[type(node)]} cannot be used in "
                    "prompts; write {{ value | filter }} or a {% macro %} instead"
                )
            self.names = names_of(tree, env, set(FUNCTIONS), field)
            self._compiled = env.from_string(tree)
        except jinja2.TemplateSyntaxError as err:
            raise SpecError(
                f"{field}, line {err.lineno}: {err.message}; columns are written {{{{ name }}}}, "
                "or {{ row['a name'] }} for a name with other signs than letters, digits and _; "
                "see the Jinja template documentation"
            ) from None
        except (jinja2.TemplateError, RowProblem, ArithmeticError, TypeError, ValueError) as err:
            # Jinja computes some constant expressions when it compiles: their errors come here.
            raise SpecError(f"{field}: the template cannot be compiled: {err}") from None

    @property
    def columns(self) -> set[str]:
        """Every column that the template names."""
        return self.names.columns

    @property
    def whole(self) -> bool:
        """Whether the template needs every column of the row, as in `{{ row | tojson }}`."""
        return self.names.whole

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Template, field=self.field), (self.source,)

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """The text for one row, in segments. `values`: column -> value. Raises `RowProblem`."""
        # Only the columns that the template names: another one could hide a function of Jinja.
        context: dict[str, Any] = {
            name: _null(name) if (value := values[name]) is None else value
            for name in self.names.plain
            if name in values
        }
        if self.names.row or self.names.fields:
            context[OWN_ROW] = _Row(values)
        if self.names.row:
            context[ROW] = context[OWN_ROW]
        try:
            text = _environment().render(self._compiled, context)
        except RowProblem:
            raise
        except _NullError as err:
            raise RowProblem(FailureCode.NULL_VALUE, f"{self.field}: {err}") from None
        except jinja2.UndefinedError as err:
            raise RowProblem(FailureCode.MISSING_FIELD, f"{self.field}: {err}") from None
        except Exception as err:
            # An error of the template on one row's values must cost only this row.
            raise RowProblem(
                FailureCode.TEMPLATE_ERROR, f"{self.field}: {type(err).__name__}: {err}"[:500]
            ) from None
        check_text(text)
        return Rendered(_split(text))


def check_text(text: str) -> None:
    """Raise `RowProblem` for half of a surrogate pair: no tokenizer and no file can hold it."""
    try:
        text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise RowProblem(
            FailureCode.BAD_VALUE,
            f"a value holds {text[err.start]!r}, half of a surrogate pair, which is not text",
        ) from None


def _split(text: str) -> list[Segment]:
    first, *parts = text.split(START)
    if END in first or any(part.count(END) != 1 for part in parts):
        # A filter separated or removed marks. To be safe, the whole text counts as document text.
        return [Segment(text.replace(START, "").replace(END, ""), True)]
    runs: list[tuple[bool, list[str]]] = []
    pieces = [(False, first)]
    for part in parts:
        value, _, literal = part.partition(END)
        pieces += [(True, value), (False, literal)]
    for document, piece in pieces:
        # An empty document segment stays, so that `Conversation.blank` can find it.
        if piece or document:
            if not runs or runs[-1][0] != document:
                runs.append((document, []))
            runs[-1][1].append(piece)
    return [Segment("".join(texts), document) for document, texts in runs]
