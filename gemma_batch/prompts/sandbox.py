"""The sandbox for templates: Jinja's sandbox, with bounds on the size of values.

Jinja's sandbox keeps a template away from the objects of the process. But a short template such as
`'a' * 10**10` could still fill the memory. This module bounds every operation that can make a
value much larger than its arguments. An operation above the bound is refused with `OverflowError`
before it starts. The trade-off: constant arithmetic is not computed when a template is compiled,
so that an expression above the bound fails row by row.
"""

from __future__ import annotations

import contextvars
import re
import types
from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST = 2**27  # characters or items of a value; the longest line of an input file has as many
BITS = 4096  # bits of a whole number
RANGES = 100_000  # numbers from all calls of range() in one rendering together
PADDING = {"ljust", "rjust", "center", "zfill", "expandtabs"}
# Format fields whose width or precision has five digits, or comes from a value.
PRINTF = re.compile(r"%(?:\([^)]*\))?[-+ #0-9.]*(?:\*|\d{5})")
FORMAT = re.compile(r"\{[^{}]*:[^{}]*(?:\{|\d{5})")
EXPANDING = ("center", "indent", "batch", "slice", "format", "replace", "join", "wordwrap", "round")
_left: contextvars.ContextVar[int] = contextvars.ContextVar("ranges_left", default=RANGES)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """See the module's docstring.

    The bounds apply to operators, formatting, padding, filters and the output.
    """

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals["range"] = bounded_range
        del self.filters["random"]  # a row has to get the same prompt on every try
        for name in EXPANDING:
            self.filters[name] = _bounded_filter(name, self.filters[name])

    def concat(self, parts: Iterable[str]) -> str:
        """The output as one text. Raises `OverflowError` when the output is too large."""
        found, size = [], 0
        for part in parts:
            size += len(part)
            _check(size)
            found.append(part)
        return "".join(found)

    def render(self, template: jinja2.Template, values: dict[str, Any]) -> str:
        """The template's text for these values; each call has a new budget for `range`."""
        _left.set(RANGES)
        # The same as `Template.render`, which would merge several sets of globals for every row.
        row = {**self.globals, **values}
        context = self.context_class(self, row, template.name, template.blocks)
        return self.concat(template.root_render_func(context))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            _check_format(str(left), PRINTF)
        elif operator == "+" and _sized(left) and _sized(right):
            _check(len(left) + len(right))
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                if _sized(one) and isinstance(times, int):
                    _check(len(one) * times)
            if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(right, 0))
        return super().call_binop(context, operator, left, right)

    def joined(self, parts: tuple[Any, ...]) -> str:
        """The value of `a ~ b`: all parts as one text. Raises `OverflowError` when too large."""
        texts = [str(part) for part in parts]
        _check(sum(map(len, texts)))
        return "".join(texts)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str | bytes) and isinstance(__obj, types.BuiltinMethodType):
            if name in PADDING:
                _check(max((n for n in (*args, *kwargs.values()) if isinstance(n, int)), default=0))
                if name == "expandtabs":
                    _check(len(owner) * max((n for n in args if isinstance(n, int)), default=8))
            elif name in {"replace", "join", "translate"}:
                _check(_product(name, owner, args))
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            _check_format(value.__self__, FORMAT)
            return str(wrapped(*args, **kwargs))

        return bounded


class BoundedGenerator(CodeGenerator):
    """Compiles `~` to a call of `BoundedEnvironment.joined`."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


BoundedEnvironment.code_generator_class = BoundedGenerator


def bounded_range(*args: int) -> range:
    """`range` with one budget for all calls in a rendering, because loops can be nested.

    Raises `OverflowError` when the budget is used up.
    """
    found = range(*args)
    left = _left.get() - len(found)
    if left < 0:
        raise OverflowError(f"range() gives at most {RANGES:,} numbers in one prompt")
    _left.set(left)
    return found


def _sized(value: Any) -> bool:
    return isinstance(value, str | bytes | list | tuple)


def _check(size: int) -> None:
    if size > LARGEST:
        raise OverflowError(f"a value of {size:,} characters or items is too large for a prompt")


def _check_bits(bits: int) -> None:
    if bits > BITS:
        raise OverflowError(f"a number of {bits:,} bits is too large for a prompt")


def _check_format(text: str, wide: re.Pattern[str]) -> None:
    if wide.search(text):
        raise OverflowError(f"the format {text[:80]!r} asks for a width that is too large")


def _product(name: str, text: Any, args: tuple[Any, ...]) -> int:
    """An upper bound for the length of the result of `replace`, `translate` or `join`."""
    if name == "replace" and len(args) >= 2 and all(isinstance(a, str | bytes) for a in args[:2]):
        return int(len(text) + text.count(args[0]) * len(args[1]))
    if name == "translate" and args and isinstance(args[0], dict):
        return len(text) * max((len(x) for x in args[0].values() if isinstance(x, str)), default=1)
    if name == "join" and args and _sized(args[0]):
        items = args[0]
        return int(len(text) * len(items)) + sum(len(x) for x in items if isinstance(x, str))
    return 0


def _bounded_filter(name: str, original: Any) -> Any:
    def check(value: Any, args: tuple[Any, ...]) -> None:
        numbers = [n for n in args if isinstance(n, int)]
        if name == "format":
            _check_format(str(value), PRINTF)
        elif name == "round":  # computes 10 to the power of the number of digits
            _check_bits(max(map(abs, numbers), default=0))
        elif name == "indent":
            _check(max(numbers, default=0) * (str(value).count("\n") + 1))
        elif name == "wordwrap":
            _check(len(str(value)) * max((len(x) for x in args if isinstance(x, str)), default=1))
        elif name == "replace" and isinstance(value, str):
            _check(_product(name, value, args))
        elif name == "join" and args and _sized(value):
            _check(len(str(args[0])) * len(value))
        else:
            _check(max(numbers, default=0))

    # Jinja marks functions with attributes, such as the one of `pass_environment`.
    skip = 1 if getattr(original, "jinja_pass_arg", None) is not None else 0

    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[skip:]
        check(value, (*rest, *kwargs.values()))
        return original(*args, **kwargs)

    bounded.__dict__.update(getattr(original, "__dict__", {}))
    return bounded
