"""Watch: waits until a job ends; asks for its state and reads its log from a separate stream.

The trigger runs `watch` in the event loop of a triggerer. The synchronous operator runs it in a
new event loop. Ray's client blocks, so it is called in threads, and nothing here blocks the event
loop. The stream of the log never tells that the job has ended, because the stream can go silent
without an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gemma_batch.errors import ClusterError, ClusterLost

if TYPE_CHECKING:
    from gemma_batch.ops.ray_jobs import Job, RayJobs

PATIENCE_SECONDS = 600.0  # wait for a dashboard without answer: its head node may be replaced
LAST_LINES_SECONDS = 20.0  # wait for the driver's last lines to arrive
MESSAGE_LINES, MESSAGE_CHARS = 8, 2000
LOST, UNREACHABLE, OVERDUE = "LOST", "UNREACHABLE", "OVERDUE"


async def watch(
    connect: Callable[[], Awaitable[RayJobs]],
    submission_id: str,
    log: Any,
    *,
    every: float,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Wait until a job has ended; returns its end as plain data (see `event_of`).

    `every` is the pause between two questions in seconds, `deadline` is in Unix seconds. The
    `status` in the answer is Ray's word or one of these: LOST (the cluster was restarted and does
    not know the job), UNREACHABLE (the cluster did not answer for `PATIENCE_SECONDS`), OVERDUE
    (the job was still running at `deadline` and was stopped).
    """
    follower = _Follower(submission_id, log)
    unheard: float | None = None
    jobs: RayJobs | None = None
    try:
        while True:
            try:
                jobs = jobs or await connect()
                job = await asyncio.to_thread(jobs.find, submission_id)
                unheard = None
                if job is None:
                    return event_of(submission_id, LOST)
                if not job.active:
                    await follower.finish(jobs)
                    return event_of(submission_id, job.status, job)
                follower.follow(jobs)
                if deadline is not None and time.time() >= deadline:
                    await asyncio.to_thread(jobs.cancel, submission_id)
                    return event_of(submission_id, OVERDUE, job)
            except (ClusterError, ClusterLost) as err:
                unheard = unheard or time.monotonic()
                if time.monotonic() - unheard > PATIENCE_SECONDS:
                    return {**event_of(submission_id, UNREACHABLE), "message": str(err)}
                log.warning("asking again in %s s: %s", every, err)
            await asyncio.sleep(every)
    finally:
        follower.stop()


def event_of(submission_id: str, status: str, job: Job | None = None) -> dict[str, Any]:
    """The facts about the end of a job that a task needs; they can be written as JSON."""
    lines = (job.message if job else "").strip().splitlines()
    return {
        "submission_id": submission_id,
        "status": status,
        "exit_code": job.exit_code if job else None,
        "output": job.output if job else "",
        "message": "\n".join(lines[-MESSAGE_LINES:])[-MESSAGE_CHARS:],
    }


class _Follower:
    """Puts the lines of the driver's log into the task's log, each line once."""

    def __init__(self, submission_id: str, log: Any) -> None:
        self._id, self._log = submission_id, log
        self._read = 0
        self._begun = ""  # the beginning of a line whose end has not come yet
        self._task: asyncio.Task[None] | None = None

    def follow(self, jobs: RayJobs) -> None:
        """Open a stream of the log unless one is open; goes on where the last stream ended."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tail(jobs))

    async def _tail(self, jobs: RayJobs) -> None:
        with contextlib.suppress(ClusterLost):
            async for text in jobs.tail(self._id, skip=self._read):
                self._say(text)

    def _say(self, text: str) -> None:
        self._read += len(text)
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._log.info("%s", line.rstrip())

    async def finish(self, jobs: RayJobs) -> None:
        """Log the rest of the log of a job that has ended."""
        self.follow(jobs)
        assert self._task is not None
        await asyncio.wait([self._task], timeout=LAST_LINES_SECONDS)
        if self._begun:
            self._say("\n")

    def stop(self) -> None:
        """Close the stream. The job itself goes on."""
        if self._task is not None:
            self._task.cancel()
