"""The `answer` part of a spec: the shape that answers must have."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator

from gemma_batch.spec import patterns
from gemma_batch.spec.json_schema import check_schema
from gemma_batch.spec.spec_part import SpecPart

KINDS = ("schema", "choice", "regex", "grammar")


def schema_of_class(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a class of Pydantic. Raises `ValueError` where it has none."""
    try:
        return model.model_json_schema()
    except Exception as err:  # by several types, and by the code of the class itself
        first = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise ValueError(f"no JSON schema can be made of {model.__name__!r}: {first}") from None


class Answer(SpecPart):
    """The shape that answers must have. Without one of `schema`, `choice`, `regex` and `grammar`,
    an answer is free text.

    The engine can only write what has the shape, and each answer is checked again before it is
    committed: `output` keeps the text, and the column `answer` holds the value. An answer without
    the shape, such as an answer that `max_tokens` cut off, is a failure with the code
    `invalid_answer`; its text is in the column `output` of `errors`.
    """

    schema: dict[str, Any] | str | None = None
    """A JSON schema: written here, the path of a file, or `package.module:Model` for a class of
    Pydantic (in Python the class itself). The column `answer` gets the type that fits the schema;
    `plan` shows it. See [typed answers](answers.md#a-schema)."""

    choice: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The labels of which an answer is one, letter for letter. `answer` is text."""

    regex: str | None = None
    """A regular expression that the whole answer matches, without flags, look-around and the like
    (see [there](answers.md#a-regular-expression-or-a-grammar)). `answer` is text."""

    grammar: str | None = None
    """A grammar in EBNF, with the start `root ::= ...`, that the whole answer follows. `answer` is
    text."""

    retries: Annotated[int, Field(ge=0, le=10)] = 1
    """How often a row is asked again whose answer does not have the shape: with another seed or,
    at temperature 0, with the answer and its fault shown to the model as a further turn."""

    flatten: bool = False
    """Make a column of each property of the schema, instead of one column `answer`."""

    rows: bool | None = None
    """Rows bring the shapes of their answers along, by `response_format` and the like: the column
    `answer` holds their values as JSON. Default: true when a row of the plan's sample does. See
    [rows with a shape of their own](answers.md#rows-with-a-shape-of-their-own)."""

    confidence: bool = False
    """Add columns that say how sure the model was. See [confidence](answers.md#confidence)."""

    @field_validator("schema", mode="before")
    @classmethod
    def _of_class(cls, value: Any) -> Any:
        if isinstance(value, type) and issubclass(value, BaseModel):
            return schema_of_class(value)
        return value

    @field_validator("schema")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        if isinstance(value, dict):
            check_schema(value)
        return value

    @field_validator("regex")
    @classmethod
    def _enforceable(cls, value: str | None) -> Any:
        try:
            if value is not None:
                patterns.check(value)
        except ValueError as err:
            raise ValueError(f"the pattern {value!r}: {err}") from None
        return value

    @field_validator("grammar")
    @classmethod
    def _rooted(cls, value: str | None) -> Any:
        if value is not None and re.search(r"^\s*root\s*::=", value, re.MULTILINE) is None:
            raise ValueError(
                "has no rule `root ::= ...`, with which an answer starts (the form is EBNF)"
            )
        return value

    @field_validator("choice")
    @classmethod
    def _labels(cls, value: tuple[str, ...] | None) -> Any:
        for label in value or ():
            if not label.strip():
                raise ValueError(f"{label!r} is no label: a label has at least one letter")
            if (value or ()).count(label) > 1:
                raise ValueError(f"the label {label!r} stands there twice")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Answer:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"`{given[0]}` and `{given[1]}` are two shapes, and an answer has one: keep one"
            )
        if self.flatten and self.schema is None:
            raise ValueError("`flatten` makes columns of a schema's properties: it needs `schema`")
        if self.rows and given:
            raise ValueError(
                f"with `rows` each row brings the shape of its answer, and `{given[0]}` is the "
                "shape of all answers: keep one"
            )
        if self.flatten and isinstance(self.schema, dict) and not self.schema.get("properties"):
            raise ValueError(
                "`flatten` makes columns of the properties of the schema, which has none at its "
                "top: leave `flatten` out, or write an object with `properties` there"
            )
        return self

    @property
    def kind(self) -> str | None:
        """The kind of shape: one of `KINDS`, or None for free text."""
        return next((name for name in KINDS if getattr(self, name) is not None), None)
