"""From an Airflow connection to the cluster's jobs.

A generic `http` connection is enough: host (and port, schema) are those of the dashboard, the
password is the cluster's token, and `{"link": "https://..."}` in its extra is the address under
which people reach the dashboard, where that is another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gemma_batch.errors import UserError

if TYPE_CHECKING:
    from gemma_batch.ops.ray_jobs import RayJobs

DEFAULT_CONN_ID = "gemma_batch_ray"
PORT = 8265


def jobs_of(connection: Any) -> RayJobs:
    """The jobs of the cluster of a connection. Blocks; raises `UserError` and `ClusterError`."""
    from gemma_batch.ops.ray_jobs import RayJobs

    # Without a password there is no token, whatever this process's environment holds: it would
    # be another cluster's.
    return RayJobs(address_of(connection), token=connection.password or "")


def address_of(connection: Any) -> str:
    """The dashboard's URL."""
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        raise UserError(
            f"the Airflow connection {connection.conn_id!r} names no host: use that of the "
            f"dashboard of the Ray cluster, for example http://head and port {PORT}"
        )
    if "://" in host:
        return f"{host}:{connection.port}" if connection.port else host
    return f"{connection.schema or 'http'}://{host}:{connection.port or PORT}"


def page_of(connection: Any, submission_id: str) -> str:
    """The URL of a job's page on the dashboard, for people."""
    base = connection.extra_dejson.get("link") or address_of(connection)
    return f"{base.rstrip('/')}/#/jobs/{submission_id}"
