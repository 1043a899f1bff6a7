"""Asked: what a job asks of the form of its answers, as plain data for every process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from gemma_batch.spec import Answer, Tools

# Fields of the fingerprint that say whether rows bring the shapes of their answers, and functions.
ROW_SHAPES, ROW_TOOLS = "answer.rows", "tools.rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job asks of the form of its answers, and of the model that writes them.

    The schema of `answer` and the definitions of `tools` are resolved: they name no file and no
    class. `generation` is the model's Gemma generation. `calls` is the format in which the model
    writes calls (`ModelCard.calls`). `thinks` says that its answers can hold thoughts, asked for or
    not. `keep_marks` says that the job wants to see the control tokens in `output`.
    """

    answer: Answer = field(default_factory=Answer)
    tools: Tools | None = None
    thinking: bool = False
    generation: str = "gemma3"
    calls: str = "text"
    thinks: bool = False
    keep_marks: bool = False

    def __post_init__(self) -> None:
        if self.tools is not None and self.tools.rows is False:  # no functions at all
            object.__setattr__(self, "tools", None)

    @property
    def rows(self) -> bool:
        """Whether rows may ask for the form of their answers."""
        return bool(self.answer.rows) or (self.tools is not None and bool(self.tools.rows))

    @property
    def shaped(self) -> bool:
        """Whether an answer can be without the shape that was asked for."""
        return self.enforced or self.rows or self.tools is not None or self.thinking

    @property
    def enforced(self) -> bool:
        """Whether the engine enforces a shape of the answers."""
        return self.answer.kind is not None or (self.tools is not None and self.tools.forced)

    @property
    def shows_marks(self) -> bool:
        """Whether answers are read with their control tokens, which tell calls and thoughts."""
        return self.thinking or self.thinks or (self.tools is not None and self.calls != "text")

    @property
    def opens_thought(self) -> bool:
        """Whether the prompt ends inside a thought.

        A model that is about to write an enforced shape cannot begin a thought by itself.
        """
        return self.thinking and self.enforced

    def fields(self) -> dict[str, Any]:
        """The parts of the spec that were set, for the fingerprint; {} for free text.

        Without `retries`: more of them can give a failed row an answer, and change no other.
        """
        found: dict[str, Any] = {}
        if self.answer.kind is not None or self.answer.confidence:
            found["answer"] = self.answer.model_dump(
                mode="json", exclude_defaults=True, exclude={"retries", "rows", "schema"}
            )
        if self.answer.schema is not None:
            # As text, in which the order of the properties counts: it is that of the columns.
            found["answer.schema"] = json.dumps(self.answer.schema, ensure_ascii=False)
        if self.answer.rows:
            found[ROW_SHAPES] = True
        if self.tools is not None and self.tools.rows:
            found[ROW_TOOLS] = True
        elif self.tools is not None:
            found["tools"] = self.tools.model_dump(mode="json", exclude_defaults=True)
        if self.thinking:
            found["thinking"] = True
        return found
