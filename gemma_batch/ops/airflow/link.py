"""The link from a task to the page of its job on the Ray dashboard."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class RayJobLink(BaseOperatorLink):
    """The link; Airflow shows it as soon as the operator has stored the URL under `xcom_key`.

    The operator stores the URL when it has submitted the job.
    """

    @property
    def name(self) -> str:
        """The text on the button."""
        return "Ray job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The URL; empty before a job exists. Airflow stores it again when the task ends."""
        return str(operator.job_url or "")
