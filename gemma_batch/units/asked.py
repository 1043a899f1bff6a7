"""Asked: what a job asks of the form of its answers, as plain data for every process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from gemma_batch.spec import Answer, Tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job asks of the form of its answers, and of the model that writes them.

    The schema of `answer` and the definitions of `tools` are resolved: they name no file and no
    class. `generation` is the model's Gemma generation, which decides how it writes calls and
    thoughts.
    """

    answer: Answer = field(default_factory=Answer)
    tools: Tools | None = None
    thinking: bool = False
    generation: str = "gemma3"

    @property
    def shaped(self) -> bool:
        """Whether an answer can be without the shape that was asked for."""
        return self.answer.kind is not None or self.tools is not None

    def fields(self) -> dict[str, Any]:
        """The parts of the spec that were set, for the fingerprint; {} for free text.

        Without `retries`: more of them can give a failed row an answer, and change no other.
        """
        found: dict[str, Any] = {}
        if self.answer.kind is not None or self.answer.confidence:
            found["answer"] = self.answer.model_dump(
                mode="json", exclude_defaults=True, exclude={"retries", "schema"}
            )
        if self.answer.schema is not None:
            # As text, in which the order of the properties counts: it is that of the columns.
            found["answer.schema"] = json.dumps(self.answer.schema, ensure_ascii=False)
        if self.tools is not None:
            found["tools"] = self.tools.model_dump(mode="json", exclude_defaults=True)
        if self.thinking:
            found["thinking"] = True
        return found
