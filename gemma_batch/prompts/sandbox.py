"""The sandbox that templates run in: Jinja's own, and bounds on what a template may build.

Jinja keeps a template from the process's objects; a few characters such as `'a' * 10**10` could
still take all of its memory. Every operation that makes something much larger than what it is
given is bounded here, and refused with `OverflowError` before it starts. The trade-off: constant
arithmetic is no longer computed while compiling, so such an expression fails row by row.
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

LARGEST = 2**27  # characters or items; as much as the longest line of an input file
BITS = 4096  # of a whole number
RANGES = 100_000  # numbers that all calls of range() in one rendering give
PADDING = {"ljust", "rjust", "center", "zfill", "expandtabs"}
# Fields whose width or precision is of five digits, or is itself a value.
PRINTF = re.compile(r"%(?:\([^)]*\))?[-+ #0-9.]*(?:\*|\d{5})")
FORMAT = re.compile(r"\{[^{}]*:[^{}]*(?:\{|\d{5})")
EXPANDING = ("center", "indent", "batch", "slice", "format", "replace", "join", "wordwrap", "round")
_left: contextvars.ContextVar[int] = contextvars.ContextVar("ranges_left", default=RANGES)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """See the module. Bounds apply to operators, formatting, padding, filters and the output."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals["range"] = bounded_range
        del self.filters["random"]  # a row that is tried again has to get the same prompt
        for name in EXPANDING:
            self.filters[name] = _bounded_filter(name, self.filters[name])

    def concat(self, parts: Iterable[str]) -> str:
        """The output, unless it grows too large."""
        found, size = [], 0
        for part in parts:
            size += len(part)
            _check(size)
            found.append(part)
        return "".join(found)

    def render(self, template: jinja2.Template, values: dict[str, Any]) -> str:
        """The template's text for these values, with a budget of its own for `range`."""
        _left.set(RANGES)
        # As `Template.render` does, which merges the globals of several places for every row.
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
        """What `a ~ b` means."""
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
    """Sends `~` through `BoundedEnvironment.joined`."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


BoundedEnvironment.code_generator_class = BoundedGenerator


def bounded_range(*args: int) -> range:
    """`range`, with one budget for all calls in a rendering, since loops nest."""
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
    """At most how long the result of a replacement or a joining is."""
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
        elif name == "round":  # to the power of ten of that many digits, also negative
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

    # Jinja looks for marks such as `pass_environment` on the function.
    skip = 1 if getattr(original, "jinja_pass_arg", None) is not None else 0

    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[skip:]
        check(value, (*rest, *kwargs.values()))
        return original(*args, **kwargs)

    bounded.__dict__.update(getattr(original, "__dict__", {}))
    return bounded
