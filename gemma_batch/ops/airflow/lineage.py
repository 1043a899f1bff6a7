"""Lineage: names the input and the output of a task for Airflow's OpenLineage provider."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from gemma_batch.spec import JobSpec


def place_of(path: str) -> tuple[str, str]:
    """Namespace and name of a path in OpenLineage's naming; a glob counts as its folder."""
    fixed = re.split(r"[*?\[{]", path, maxsplit=1)[0]
    if fixed != path:
        fixed = fixed.rpartition("/")[0]
    parts = urlsplit(fixed)
    if parts.scheme in {"", "file"}:
        return "file", parts.path.rstrip("/") or "/"
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"


def lineage_of(spec: JobSpec, facts: dict[str, Any] | None, job: tuple[str, str] | None) -> Any:
    """Airflow's `OperatorLineage`: inputs, output with its row count, and the job as run facet.

    `job` is the submission id and the URL of the job's page. Raises `ImportError` without the
    provider.
    """
    from airflow.providers.common.compat.openlineage.facet import (
        Dataset,
        ExternalQueryRunFacet,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    counted = {}
    if facts is not None:
        rows = facts["answered"] + facts["failed"]
        counted["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    inputs = sorted({place_of(path) for path in spec.input.paths})
    namespace, name = place_of(spec.output.path)
    return OperatorLineage(
        inputs=[Dataset(namespace=space, name=path) for space, path in inputs],
        outputs=[OutputDataset(namespace=namespace, name=name, outputFacets=counted)],
        run_facets={}
        if job is None
        else {"externalQuery": ExternalQueryRunFacet(externalQueryId=job[0], source=job[1])},
    )
