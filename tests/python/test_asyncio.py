"""Awaiting: on any running loop, with one wake-up a tick however many requests finish."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import trtlab
import uvloop
from trtlab import _asyncio, errors

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Make = Callable[..., Any]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def run_on(make_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> Any:
    loop = make_loop()
    with closing(loop):
        try:
            return loop.run_until_complete(asyncio.wait_for(main, 60))
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine to its end on a loop of its own."""
    return lambda main: run_on(request.param, main)


@pytest.fixture
def deliveries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each wake-up of a loop by finished requests found: a number of futures."""
    found: list[int] = []

    class Counted(_asyncio._LoopBridge):
        def deliver(self) -> None:
            taken = self.completions
            self.completions = self  # type: ignore[assignment]
            self._taken = taken
            try:
                super().deliver()
            finally:
                self.completions = taken

        def take(self) -> list[Any]:
            tokens = self._taken.take()
            found.append(len(tokens))
            return tokens

    monkeypatch.setattr(_asyncio, "_LoopBridge", Counted)
    return found


async def answer(future: trtlab.Future) -> Any:
    return (await future)["y"].numpy()


def test_an_answer_can_be_awaited(run: Run, gated: Make) -> None:
    one = gated()

    async def main() -> None:
        future = one.model.infer(x=ROWS)
        asyncio.get_running_loop().call_soon(one.gate.set)
        np.testing.assert_array_equal(await answer(future), 2 * ROWS)
        np.testing.assert_array_equal(await answer(future), 2 * ROWS)

    run(main())


def test_a_finished_future_is_awaited_without_the_loop(run: Run, gated: Make, deliveries: list[int]) -> None:
    one = gated()
    one.gate.set()
    future = one.model.infer(x=ROWS)
    future.result(60)

    async def main() -> None:
        assert (await future) is future.result()

    run(main())
    assert deliveries == []


def test_the_loop_goes_on_while_requests_execute(run: Run, gated: Make) -> None:
    one = gated()

    async def main() -> int:
        task = asyncio.ensure_future(answer(one.model.infer(x=ROWS)))
        turns = 0
        while turns < 1000:
            await asyncio.sleep(0)
            turns += 1
        assert not task.done()
        one.gate.set()
        await task
        return turns

    assert run(main()) == 1000


def test_a_thousand_requests_finish_with_one_wake_up(run: Run, gated: Make, deliveries: list[int]) -> None:
    one = gated()

    async def main() -> list[Any]:
        futures = [one.model.infer(x=np.full((1, 4), i, np.float32)) for i in range(1000)]
        tasks = [asyncio.ensure_future(answer(future)) for future in futures]
        await asyncio.sleep(0)
        assert deliveries == []
        # The loop stands still until every request has ended.
        one.gate.set()
        one.model.close()
        return await asyncio.gather(*tasks)

    answers = run(main())
    assert deliveries == [1000]
    for i, rows in enumerate(answers):
        np.testing.assert_array_equal(rows, np.full((1, 4), 2 * i, np.float32))


def test_gather_and_as_completed_and_wait_for_take_futures(run: Run, gated: Make) -> None:
    one = gated()

    async def main() -> None:
        held = one.model.infer(x=ROWS)
        one.wait_started()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(held, 0.001)
        one.gate.set()
        # It was executing, so the time-out could not take it back.
        assert not held.cancelled()
        results = await asyncio.gather(*(one.model.infer(x=ROWS) for _ in range(10)))
        assert all((result["y"].numpy() == 2 * ROWS).all() for result in results)
        for next_done in asyncio.as_completed([answer(one.model.infer(x=ROWS)) for _ in range(10)]):
            np.testing.assert_array_equal(await next_done, 2 * ROWS)

    run(main())


def test_several_loops_await_at_once_and_even_the_same_future(gated: Make) -> None:
    one = gated(max_queue=4096)
    shared = one.model.infer(x=ROWS)
    ready = threading.Barrier(5)

    async def main(index: int) -> None:
        mine = [one.model.infer(x=np.full((1, 4), index * 1000 + i, np.float32)) for i in range(200)]
        tasks = [asyncio.ensure_future(answer(future)) for future in [shared, *mine]]
        await asyncio.sleep(0)
        ready.wait(60)
        first, *rest = await asyncio.gather(*tasks)
        np.testing.assert_array_equal(first, 2 * ROWS)
        for i, rows in enumerate(rest):
            np.testing.assert_array_equal(rows, np.full((1, 4), 2 * (index * 1000 + i), np.float32))

    make = [asyncio.new_event_loop, uvloop.new_event_loop]
    with ThreadPoolExecutor(4) as threads:
        loops = [threads.submit(lambda i=i: run_on(make[i % 2], main(i))) for i in range(4)]
        ready.wait(60)
        one.gate.set()
        for loop in loops:
            loop.result(60)


def test_loops_that_follow_each_other_in_a_thread_each_get_their_own_answers(run: Run, gated: Make) -> None:
    one = gated()
    one.gate.set()
    for index in range(20):
        rows = np.full((1, 4), index, np.float32)
        np.testing.assert_array_equal(run(answer(one.model.infer(x=rows))), 2 * rows)


def test_loops_that_take_turns_in_a_thread_are_not_confused(gated: Make) -> None:
    one = gated()
    loops = [asyncio.new_event_loop(), uvloop.new_event_loop()]
    tasks = [loop.create_task(answer(one.model.infer(x=ROWS))) for loop in loops]
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0))
    more = [loop.create_task(answer(one.model.infer(x=ROWS))) for loop in loops]
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0))
    one.gate.set()
    # The later one first: what went to the list of the other would not wake it.
    for loop, first, second in reversed(list(zip(loops, tasks, more, strict=True))):
        np.testing.assert_array_equal(loop.run_until_complete(asyncio.wait_for(first, 20)), 2 * ROWS)
        np.testing.assert_array_equal(loop.run_until_complete(asyncio.wait_for(second, 20)), 2 * ROWS)
        loop.close()


def test_an_error_is_raised_where_it_is_awaited(run: Run) -> None:
    async def main() -> None:
        entered = asyncio.Event()
        gate = threading.Event()
        with trtlab.ThreadPool(1) as threads:
            task = asyncio.ensure_future(expect_key_error(threads.submit(lambda: gate.wait(60) and {}["key"])))
            asyncio.get_running_loop().call_soon(entered.set)
            await entered.wait()
            gate.set()
            await task

    async def expect_key_error(future: trtlab.Future) -> None:
        with pytest.raises(KeyError, match="key"):
            await future

    run(main())


def test_cancelling_a_task_cancels_a_request_that_waits(run: Run, gated: Make) -> None:
    one = gated()

    async def main() -> None:
        running, queued = one.model.infer(x=ROWS), one.model.infer(x=ROWS)
        one.wait_started()
        for future, cancelled in ((running, False), (queued, True)):
            task = asyncio.ensure_future(answer(future))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert future.cancelled() is cancelled
        one.gate.set()
        np.testing.assert_array_equal(await answer(running), 2 * ROWS)

    run(main())
    assert one.calls == 1


def test_a_request_that_somebody_cancels_raises_cancelled(run: Run, gated: Make) -> None:
    one = gated()

    async def main() -> None:
        one.model.infer(x=ROWS)
        queued = one.model.infer(x=ROWS)
        task = asyncio.ensure_future(answer(queued))
        await asyncio.sleep(0)
        assert queued.cancel()
        with pytest.raises(errors.Cancelled):
            await task
        assert not task.cancelled()

    run(main())


def test_a_loop_may_be_closed_with_requests_pending(run: Run, gated: Make) -> None:
    one = gated()
    futures: list[trtlab.Future] = []

    async def main() -> None:
        futures.extend(one.model.infer(x=ROWS) for _ in range(3))
        for future in futures:
            # As deep into `await` as a task gets before it sleeps.
            next(future.__await__())
        await asyncio.sleep(0)

    run(main())
    one.gate.set()
    for future in futures:
        np.testing.assert_array_equal(future.result(60)["y"], 2 * ROWS)
    futures.clear()
    np.testing.assert_array_equal(run(answer(one.model.infer(x=ROWS))), 2 * ROWS)


def test_awaiting_outside_of_a_loop_is_an_error(gated: Make) -> None:
    one = gated()
    with pytest.raises(RuntimeError, match="no running event loop"):
        next(one.model.infer(x=ROWS).__await__())


def test_a_loop_that_is_gone_leaves_no_file_descriptor(run: Run, gated: Make) -> None:
    import gc
    import os

    one = gated()
    one.gate.set()
    run(answer(one.model.infer(x=ROWS)))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        run(answer(one.model.infer(x=ROWS)))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
