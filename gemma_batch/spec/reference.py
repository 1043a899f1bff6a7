"""The reference of the spec, docs/spec.md, made from the parts and the texts below their fields.

`python -m gemma_batch.spec.reference docs/spec.md` writes it, as `make docs` does.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from gemma_batch.spec.jobspec import JobSpec
from gemma_batch.spec.spec_part import SpecPart

HEAD = """\
# The spec

<!-- Made by `make docs` from gemma_batch/spec/: change the text there, not here. -->

A job is one YAML file. This page has every field, in the order in which a spec is usually written.
`gemma-batch init INPUT` writes a spec to start with; `gemma-batch plan SPEC` checks one.

- A field without a default must be given. "-" means that nothing is set; the text says what happens
  then.
- An unknown field is refused, and the message names the nearest field that exists.
- `--set a.b=c` overrides a field on the command line: `--set sampling.max_tokens=64`, and
  `--set routes.0.model=google/gemma-3-4b-it` for an entry of a list. The value is read as YAML.
- A spec has at most 1 MiB, 50 levels of nesting and numbers of at most 100 digits, and no binary
  values.
- Secrets do not belong into a spec, which is kept with the output: credentials come from the
  environment.
"""
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
MANY = {str: "texts", int: "whole numbers"}
A_NUMBERS_SIZE = 2**31 - 1  # a bound that only says how an engine keeps a number
BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def reference() -> str:
    """The whole page, in Markdown."""
    sections = [_section(path, part) for path, part in parts()]
    return "\n".join([HEAD, *sections])


def parts(part: type[SpecPart] = JobSpec, path: str = "") -> Iterator[tuple[str, type[SpecPart]]]:
    """Each part of the spec with its path ("" for the whole), a part before the parts in it."""
    yield path, part
    for name, field in part.model_fields.items():
        for inner in _parts_in(field.annotation):
            yield from parts(inner, f"{path}.{name}" if path else name)


def _parts_in(annotation: Any) -> list[type[SpecPart]]:
    if isinstance(annotation, type) and issubclass(annotation, SpecPart):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _parts_in(inner)]


def _section(path: str, part: type[SpecPart]) -> str:
    title = f"`{path}`" if path else "The job"
    about = (part.__doc__ or "").strip().replace("\n    ", "\n")
    rows = [
        f"| `{name}` | {_kind(field.annotation, field.metadata, _below(path, name))} "
        f"| {_default(field)} | {_cell(field.description or '')} |"
        for name, field in part.model_fields.items()
    ]
    head = ["| field | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", about, "", *head, *rows, ""])


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SpecPart):
        return "its defaults"
    if value is None or value in ((), {}):
        return "-"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{value:.15g}`" if isinstance(value, float) else f"`{value}`"


def _kind(annotation: Any, metadata: Any, path: str) -> str:
    """The values that a field takes, in words; a part is a link to the part's own table."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0], getattr(inner[1], "metadata", inner[1:]), path)
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(one, (), path) for one in inner if one is not type(None)]
        return _or(kinds) + _bounds(annotation, metadata)
    if origin is typing.Literal:
        return _or([f"`{value}`" for value in inner])
    if origin is tuple:
        bare = typing.get_origin(inner[0]) is not typing.Annotated
        kind, *limits = inner[:1] if bare else typing.get_args(inner[0])
        return f"list of {MANY.get(kind) or _kind(kind, (), path)}{_bounds(kind, _flat(limits))}"
    if origin is dict:
        return f"mapping of {_kind(inner[0], (), path)} to {_kind(inner[1], (), path)}"
    if isinstance(annotation, type) and issubclass(annotation, SpecPart):
        return f"[`{path}`](#{path.replace('.', '')})"
    return NAMES[annotation] + _bounds(annotation, metadata)


def _flat(limits: Sequence[Any]) -> list[Any]:
    """The constraints in the metadata of `Annotated[kind, *limits]`."""
    return [one for limit in limits for one in getattr(limit, "metadata", [limit])]


def _or(kinds: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))


def _bounds(annotation: Any, metadata: Any) -> str:
    said = []
    for constraint in metadata:
        for name, words in BOUNDS:
            limit = getattr(constraint, name, None)
            if limit is not None and abs(limit) >= A_NUMBERS_SIZE:
                continue
            if limit is not None and (annotation, name) == (int, "gt"):
                said.append(f"at least {limit + 1:,}")
            elif limit is not None:
                said.append(f"{words} {limit:,}")
    return f" ({', '.join(said)})" if said else ""


def main(arguments: list[str]) -> None:
    """Write the page to the file that is named."""
    (to,) = arguments
    Path(to).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
