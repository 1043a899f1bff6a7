"""The trigger: waits for a Ray job in the triggerer's event loop, and copies the job's log.

The log of the job goes into the log of the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from gemma_batch.ops.airflow.connection import jobs_of
from gemma_batch.ops.airflow.watch import watch

if TYPE_CHECKING:
    from gemma_batch.ops.ray_jobs import RayJobs


class GemmaBatchTrigger(BaseTrigger):
    """Fires once, when the job has ended (see `watch`).

    Airflow stores the trigger in its database, so the trigger holds names and no token. When a
    triggerer dies, nothing is lost: the next triggerer makes the trigger again, and the log starts
    from its beginning.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        submission_id: str,
        poll_seconds: float = 10.0,
        deadline: float | None = None,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.submission_id = submission_id
        self.poll_seconds = poll_seconds
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make an equal trigger in another process."""
        return (
            "gemma_batch.ops.airflow.trigger.GemmaBatchTrigger",
            {
                "conn_id": self.conn_id,
                "submission_id": self.submission_id,
                "poll_seconds": self.poll_seconds,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event for `GemmaBatchOperator.execute_complete`."""
        yield TriggerEvent(
            await watch(
                self._connect,
                self.submission_id,
                self.log,
                every=self.poll_seconds,
                deadline=self.deadline,
            )
        )

    async def on_kill(self) -> None:
        """Stop the job when a person has ended or cleared the task.

        This is not done in `cleanup`, because Airflow also calls `cleanup` when a triggerer
        restarts.
        """
        jobs = await self._connect()
        await asyncio.to_thread(jobs.cancel, self.submission_id)
        self.log.info("stopped %s: the task was ended by hand", self.submission_id)

    async def _connect(self) -> RayJobs:
        connection = await BaseHook.aget_connection(self.conn_id)
        return await asyncio.to_thread(jobs_of, connection)
