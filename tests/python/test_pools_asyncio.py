"""`Pool.acquire_async`, on a running event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from trtlab import Pool, errors


async def until_waiting(pool: Pool, count: int) -> None:
    while pool.stats()["waiting"] != count:
        await asyncio.sleep(0)


def test_a_free_item_is_leased_at_once_and_returned_after_the_block() -> None:
    pool = Pool(["a"])

    async def use() -> None:
        async with pool.acquire_async() as item:
            assert item == "a"
            assert pool.stats()["leased"] == 1
        lease = await pool.acquire_async()
        assert lease.item == "a"
        lease.release()

    asyncio.run(use())
    assert pool.stats()["free"] == 1
    assert pool.stats()["waited"] == 0


def test_the_block_returns_the_item_when_it_raises() -> None:
    pool = Pool(["a"])

    async def use() -> None:
        async with pool.acquire_async():
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(use())
    assert pool.stats()["free"] == 1


def test_tasks_and_threads_are_served_first_come_first_served() -> None:
    pool = Pool(["a"])
    order: list[int] = []

    async def task(index: int) -> None:
        async with pool.acquire_async():
            order.append(index)

    def thread(index: int) -> None:
        with pool.acquire(60):
            order.append(index)

    async def use() -> None:
        lease = pool.acquire()
        with ThreadPoolExecutor(2) as threads:
            waiting: list[asyncio.Future[None]] = []
            for index in range(0, 4, 2):
                waiting.append(asyncio.ensure_future(task(index)))
                await until_waiting(pool, index + 1)
                waiting.append(asyncio.wrap_future(threads.submit(thread, index + 1)))
                await until_waiting(pool, index + 2)
            lease.release()
            await asyncio.gather(*waiting)

    asyncio.run(use())
    assert order == [0, 1, 2, 3]
    assert pool.stats()["waited"] == 4
    assert pool.wait_times().count == 4


def test_the_loop_goes_on_while_its_tasks_wait() -> None:
    pool = Pool(["a", "b"])

    async def use(item_uses: list[str]) -> None:
        async with pool.acquire_async() as item:
            await asyncio.sleep(0)
            item_uses.append(item)

    async def many() -> list[str]:
        uses: list[str] = []
        await asyncio.gather(*(use(uses) for _ in range(300)))
        return uses

    assert len(asyncio.run(many())) == 300
    assert pool.stats()["free"] == 2


def test_a_cancelled_task_leaves_its_place() -> None:
    pool = Pool(["a"])

    async def use() -> None:
        with pool.acquire():
            for _ in range(200):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(pool.acquire_async(), 0.0001)
            assert pool.stats()["waiting"] == 0
        async with pool.acquire_async():
            pass

    asyncio.run(use())
    assert pool.stats()["free"] == 1


def test_a_task_that_is_cancelled_when_it_was_served_returns_the_item() -> None:
    returned: list[str] = []
    pool = Pool(["a"], on_return=returned.append)

    async def use() -> None:
        lease = pool.acquire()
        task = asyncio.ensure_future(pool.acquire_async())
        await until_waiting(pool, 1)
        lease.release()
        assert pool.stats()["leased"] == 1  # the task's, which has not run since
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    assert pool.stats()["free"] == 1
    assert returned == ["a", "a"]


def test_closing_the_pool_ends_the_wait() -> None:
    pool = Pool(["a"])

    async def use() -> None:
        with pool.acquire():
            tasks = [asyncio.ensure_future(pool.acquire_async()) for _ in range(3)]
            await until_waiting(pool, 3)
            pool.close()
            for task in tasks:
                with pytest.raises(errors.Closed):
                    await task
        with pytest.raises(errors.Closed):
            async with pool.acquire_async():
                pass

    asyncio.run(use())


def test_a_loop_that_ends_with_tasks_waiting_leaves_nothing_behind() -> None:
    class Thing:
        pass

    async def abandon(pool: Pool) -> None:
        tasks = [asyncio.ensure_future(pool.acquire_async()) for _ in range(5)]
        await until_waiting(pool, 5)
        assert not any(task.done() for task in tasks)

    def run() -> weakref.ref[Thing]:
        thing = Thing()
        pool = Pool([thing])
        with pool.acquire():
            asyncio.run(abandon(pool))
            assert pool.stats()["waiting"] == 0
        return weakref.ref(thing)

    watched = run()
    gc.collect()
    assert watched() is None


SCRIPT = """
import asyncio
from trtlab import Pool

pool = Pool([object()])
lease = pool.acquire()

async def wait():
    async with pool.acquire_async():
        pass

loop = asyncio.new_event_loop()
task = loop.create_task(wait())
while pool.stats()["waiting"] != 1:
    loop.run_until_complete(asyncio.sleep(0))
print("waiting", flush=True)
"""


def test_the_interpreter_may_end_while_a_task_waits() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "waiting\n"), done.stderr


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused_and_ends() -> None:
    pool = Pool(["a"])

    async def use() -> int:
        with pool.acquire():
            task = asyncio.ensure_future(pool.acquire_async())
            await until_waiting(pool, 1)
            child = os.fork()
            if child == 0:
                try:
                    pool.acquire_async().__await__().send(None)
                except errors.Closed:
                    os._exit(0)
                os._exit(1)
            task.cancel()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert asyncio.run(use()) == 0
