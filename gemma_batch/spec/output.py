"""The `output` part of a spec: where the data set goes."""

from __future__ import annotations

from pydantic import field_validator

from gemma_batch.spec.spec_part import SpecPart


class Output(SpecPart):
    """Where the data set goes."""

    path: str
    """A local folder or an `s3://` prefix. Use a new one for each job: an output that holds
    another configuration or another input is refused. The same job with the same output goes on
    where it was stopped."""

    keep: tuple[str, ...] = ()
    """Columns of the input that are copied to `results` and `errors`. The output's own column
    names are refused."""

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty: name a local folder or an s3:// prefix")
        return value.rstrip("/") if value.rstrip("/") else value
