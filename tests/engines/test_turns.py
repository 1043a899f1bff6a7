"""Turns: one at a time across processes, and a dead process gives its turn back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
import uuid

from gemma_batch.engines.turns import turn

HOLD = """
import asyncio, sys, time
from gemma_batch.engines.turns import turn

async def main():
    async with turn(sys.argv[1]):
        print("inside", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_one_process_at_a_time_and_a_death_ends_a_turn() -> None:
    """Engines that share a GPU load one after another; one that is killed holds up nobody."""
    name = f"gpu-{uuid.uuid4().hex}"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "inside\n"

        async def enter(patience: float) -> float:
            begun = time.monotonic()
            async with asyncio.timeout(patience):
                async with turn(name):
                    return time.monotonic() - begun

        try:
            asyncio.run(enter(1.0))
            raise AssertionError("two were inside at once")
        except TimeoutError:
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert asyncio.run(enter(10.0)) < 5
    finally:
        holder.kill()
        holder.wait()


def test_others_pass_by() -> None:
    """Another GPU's engines do not wait, and one process takes its turns one by one."""
    first, second = f"gpu-{uuid.uuid4().hex}", f"gpu-{uuid.uuid4().hex}"
    inside: list[str] = []

    async def both() -> None:
        async with turn(first), turn(second):
            inside.append("both")
        async with turn(first):
            inside.append("again")

    asyncio.run(both())
    assert inside == ["both", "again"]


def test_what_was_waited_for_may_turn_up() -> None:
    """Engines that wait for the first to compile all go on at once when it has."""
    name = f"compiled-{uuid.uuid4().hex}"
    order: list[str] = []

    async def first(done: asyncio.Event) -> None:
        async with turn(name, unless=done.is_set):
            await asyncio.sleep(0.5)
            order.append("compiled")
            done.set()
            await asyncio.sleep(1.0)  # still inside: the others do not need its turn
            order.append("first left")

    async def other(done: asyncio.Event) -> None:
        await asyncio.sleep(0.1)
        async with turn(name, unless=done.is_set):
            order.append("other")

    async def main() -> None:
        done = asyncio.Event()
        await asyncio.gather(first(done), other(done), other(done))

    asyncio.run(main())
    assert order == ["compiled", "other", "other", "first left"]
