"""The link from a task to its job's page on the Ray dashboard."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class RayJobLink(BaseOperatorLink):
    """Shown as soon as the job is submitted: the operator stores the URL under `xcom_key` then."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "Ray job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The URL, stored once more by Airflow when the task ends; empty before a job exists."""
        return str(operator.job_url or "")
