"""The `output` part of a spec: where the data set goes."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from gemma_batch.spec.spec_part import SpecPart

FORMS = "give a list of names, such as [customer], or a mapping such as {new name: column}"


class Output(SpecPart):
    """Where the data set goes."""

    path: str
    """A local folder or an `s3://` prefix. Use a new one for each job: an output that holds
    another configuration or another input is refused. The same job with the same output goes on
    where it was stopped."""

    keep: tuple[str | dict[str, str], ...] = ()
    """Columns of the input that are copied to `results` and `errors`: a list of names, such as
    `[customer, "Order No."]`. A mapping `{new name: column}` renames on the way: `{gold: output}`
    copies the input's column `output` as `gold`. A list may hold mappings too:
    `[customer, {gold: output}]`. The output's own column names are refused as new names."""

    @field_validator("keep", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = [{name: column} for name, column in value.items()]
        if not isinstance(value, list | tuple):
            raise ValueError(f"{FORMS}, not {value!r}")  # noqa: TRY004  (pydantic's way)
        for one in value:
            for name in [*one, *one.values()] if isinstance(one, dict) else [one]:
                if not isinstance(name, str):
                    raise ValueError(  # noqa: TRY004  (pydantic's way)
                        f"{name!r} is no name of a column: {FORMS}; a name that YAML reads as a "
                        "number stands in quotes"
                    )
        return value

    @field_validator("keep")
    @classmethod
    def _once(cls, value: tuple[str | dict[str, str], ...]) -> tuple[str | dict[str, str], ...]:
        kept: dict[str, str] = {}
        for name, column in _pairs(value):
            if kept.setdefault(name, column) != column:
                raise ValueError(
                    f"two columns, {kept[name]!r} and {column!r}, would have the name {name!r}: "
                    "give one of them another name, {new name: column}"
                )
        return value

    @property
    def kept(self) -> dict[str, str]:
        """The kept columns: the name in the output -> the column of the input."""
        return dict(self.pairs)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """`kept` as pairs, as the spec has them: a column that is named twice is there twice."""
        return _pairs(self.keep)

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty: name a local folder or an s3:// prefix")
        return value.rstrip("/") if value.rstrip("/") else value


def _pairs(keep: tuple[str | dict[str, str], ...]) -> list[tuple[str, str]]:
    """The name in the output and the column of the input, for each kept column."""
    return [
        pair for one in keep for pair in (one.items() if isinstance(one, dict) else [(one, one)])
    ]
