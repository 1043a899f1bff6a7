"""ReadOptions: how the files of an input are read, as the spec says (every process).

The options are the same for all files of an input. They travel with each shard.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Plain data: every field can be written as JSON. A reader ignores options of other formats."""

    def plain(self) -> dict[str, Any]:
        """The options that are not the default, as JSON can hold them."""
        usual = asdict(ReadOptions())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}
