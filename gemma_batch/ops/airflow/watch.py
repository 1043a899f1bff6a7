"""Watching a job until it ends: its state is asked for, its log comes over a stream of its own.

Used by the trigger in a triggerer's loop, and by the synchronous operator in a loop of its own.
Nothing here blocks the loop: Ray's client does, so it is called in threads. The end is never
learnt from the stream, which can go silent without breaking.
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

PATIENCE_SECONDS = 600.0  # for a dashboard that does not answer: a head node that is replaced
LAST_LINES_SECONDS = 20.0  # for what the driver said last to arrive
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
    """What became of a job, as plain data (see `event_of`), when it has ended.

    `status` is Ray's word or LOST (the cluster was restarted and has forgotten it), UNREACHABLE or
    OVERDUE (it was still running at `deadline`, in Unix time, and was stopped).
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
    """What a task has to know of its job's end; survives JSON."""
    lines = (job.message if job else "").strip().splitlines()
    return {
        "submission_id": submission_id,
        "status": status,
        "exit_code": job.exit_code if job else None,
        "output": job.output if job else "",
        "message": "\n".join(lines[-MESSAGE_LINES:])[-MESSAGE_CHARS:],
    }


class _Follower:
    """Puts the driver's lines into the task's log, each once."""

    def __init__(self, submission_id: str, log: Any) -> None:
        self._id, self._log = submission_id, log
        self._read = 0
        self._begun = ""  # a line whose end has not come yet
        self._task: asyncio.Task[None] | None = None

    def follow(self, jobs: RayJobs) -> None:
        """See to it that the log is being followed; goes on where it broke off."""
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
        """The rest of an ended job's log."""
        self.follow(jobs)
        assert self._task is not None
        await asyncio.wait([self._task], timeout=LAST_LINES_SECONDS)
        if self._begun:
            self._say("\n")

    def stop(self) -> None:
        """Let go of the stream; the job is none of its business."""
        if self._task is not None:
            self._task.cancel()
