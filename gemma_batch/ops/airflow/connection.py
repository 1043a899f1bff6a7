"""Connection: opens the jobs of the cluster that an Airflow connection names.

A generic `http` connection is enough. Host, port and schema are those of the dashboard, and the
password is the token of the cluster. When people reach the dashboard at another address, put
`{"link": "https://..."}` into the extra of the connection.
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

    # Without a password no token is sent. A token in the environment of this process would be the
    # token of another cluster.
    return RayJobs(address_of(connection), token=connection.password or "")


def address_of(connection: Any) -> str:
    """The URL of the dashboard. Raises `UserError` when the connection names no host."""
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
