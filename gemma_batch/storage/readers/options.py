"""ReadOptions: how the files of an input are read, as the spec says (every process).

The options are the same for all files of an input. They travel with each shard.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Plain data: every field can be written as JSON. A reader ignores options of other formats.

    `encoding` is a name that Python knows; None stands for UTF-8. `delimiter`, `quote`, `escape`,
    `header` and `nulls` are those of the spec's `input.csv`; None stands for the usual one of the
    format, and an empty `quote` for no quotes at all. `row` and `blank` are those of `input.txt`.
    `types` are the pairs of the spec's `input.schema`: column, name of the type.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    header: bool | tuple[str, ...] = True
    nulls: tuple[str, ...] = ()
    row: str = "line"
    blank: str = "row"
    types: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Lists, which JSON gives, become tuples."""
        for name in ("header", "nulls"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "types", tuple((name, kind) for name, kind in self.types))

    def plain(self) -> dict[str, Any]:
        """The options that are not the default, as JSON can hold them."""
        usual = asdict(ReadOptions())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}
