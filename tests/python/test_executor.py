"""`ThreadPool` is a ``concurrent.futures.Executor``, for everybody who takes one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trtlab
from trtlab import ThreadPool, affinity, errors
from trtlab.thread_pool import TaskFuture


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(2) as threads:
        yield threads


class Held:
    """One worker's task, which runs until it is let go."""

    def __init__(self, threads: ThreadPool) -> None:
        self.gate, started = threading.Event(), threading.Event()
        self.future = threads.submit(lambda: (started.set(), self.gate.wait(60)))
        assert started.wait(60)


def test_a_pool_and_its_futures_are_the_standards(pool: ThreadPool) -> None:
    assert isinstance(pool, concurrent.futures.Executor)
    future = pool.submit(pow, 2, 3)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(60) == 8
    assert "TaskFuture done" in repr(future)


def test_map_gives_results_in_order_and_raises_what_a_call_raised(pool: ThreadPool) -> None:
    assert list(pool.map(pow, range(100), [2] * 100)) == [i * i for i in range(100)]
    results = pool.map(lambda x: 1 // x, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_times_out_and_cancels_what_has_not_begun() -> None:
    with ThreadPool(1) as threads:
        held = Held(threads)
        with pytest.raises(TimeoutError):
            list(threads.map(int, range(3), timeout=0.001))
        held.gate.set()
    assert threads._threads.stats()["executed"] == 4  # the cancelled ones were taken up, and not called


def test_run_in_executor_takes_it(pool: ThreadPool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, pow, 2, 5) == 32
        with pytest.raises(KeyError):
            await loop.run_in_executor(pool, {}.__getitem__, "key")
        results = await asyncio.gather(*(loop.run_in_executor(pool, int, i) for i in range(200)))
        assert results == list(range(200))
        assert await pool.submit(pow, 2, 7) == 128  # and a future of ours may be awaited as it is

    asyncio.run(main())


def test_cancelling_the_awaiting_task_cancels_what_has_not_begun() -> None:
    with ThreadPool(1) as threads:
        held = Held(threads)
        calls: list[int] = []

        async def main() -> None:
            waiting = asyncio.get_running_loop().run_in_executor(threads, calls.append, 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        asyncio.run(main())
        held.gate.set()
    assert calls == []


@pytest.mark.parametrize("asked", ["before", "after"])
def test_wait_and_as_completed_take_the_futures(pool: ThreadPool, asked: str) -> None:
    gate = threading.Event()
    slow = pool.submit(gate.wait, 60)
    quick = [pool.submit(int, i) for i in range(20)]
    if asked == "after":
        for future in quick:
            future.result(60)
    done, pending = concurrent.futures.wait([slow, *quick[:5]], 60, concurrent.futures.FIRST_COMPLETED)
    assert done
    assert slow in pending
    finished = [future.result(0) for future in concurrent.futures.as_completed(quick, 60)]
    assert sorted(finished) == list(range(20))
    with pytest.raises(concurrent.futures.TimeoutError):
        next(concurrent.futures.as_completed([slow], 0.001))
    gate.set()
    assert concurrent.futures.wait([slow, *quick], 60).not_done == set()
    failing = [pool.submit(divmod, 1, 0), pool.submit(gate.wait, 60)]
    assert failing[0] in concurrent.futures.wait(failing, 60, concurrent.futures.FIRST_EXCEPTION).done


def test_futures_of_two_kinds_may_be_waited_for_together(pool: ThreadPool) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as others:
        both: list[concurrent.futures.Future[int]] = [pool.submit(int, 1), others.submit(int, 2)]
        assert {future.result() for future in concurrent.futures.as_completed(both, 60)} == {1, 2}


def test_many_rounds_of_as_completed_lose_no_future(pool: ThreadPool) -> None:
    for _ in range(100):
        futures = [pool.submit(int, i) for i in range(8)]
        assert sum(future.result() for future in concurrent.futures.as_completed(futures, 60)) == 28


def test_a_callback_gets_the_future_that_it_was_added_to(pool: ThreadPool) -> None:
    gate, called = threading.Event(), threading.Event()
    seen: list[object] = []
    future = pool.submit(gate.wait, 60)
    future.add_done_callback(lambda done: (seen.append(done), called.set()))
    gate.set()
    assert called.wait(60)
    future.add_done_callback(seen.append)
    assert seen == [future, future]


def test_the_snapshot_that_asyncio_reads_is_right(pool: ThreadPool) -> None:
    gate = threading.Event()
    running = pool.submit(gate.wait, 60)
    assert running._get_snapshot() == (False, False, None, None)
    gate.set()
    running.result(60)
    assert running._get_snapshot() == (True, False, True, None)
    failed = pool.submit(divmod, 1, 0)
    error = failed.exception(60)
    assert failed._get_snapshot() == (True, False, None, error)


def test_a_future_is_fulfilled_by_its_pool_alone(pool: ThreadPool) -> None:
    future: TaskFuture[int] = pool.submit(int, 3)
    for fulfil in (lambda: future.set_result(4), lambda: future.set_exception(KeyError()),
                   lambda: future.set_running_or_notify_cancel()):  # fmt: skip
        with pytest.raises(errors.InvalidArgument, match="fulfilled by the pool"):
            fulfil()
    assert future.result(60) == 3


def test_shutdown_runs_what_is_queued_and_refuses_more() -> None:
    threads = ThreadPool(1)
    held = Held(threads)
    queued = [threads.submit(int, i) for i in range(3)]
    threads.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="closed"):  # as the standard's
        threads.submit(int)
    assert not held.future.done()
    held.gate.set()
    threads.shutdown()
    assert [future.result(0) for future in queued] == [0, 1, 2]
    threads.shutdown()


@pytest.mark.parametrize("wait", [False, True])
def test_shutdown_cancels_what_is_queued_if_asked_to(wait: bool) -> None:
    threads = ThreadPool(1)
    held = Held(threads)
    queued = [threads.submit(int, i) for i in range(3)]
    if wait:
        queued[-1].add_done_callback(lambda _: held.gate.set())
    threads.shutdown(wait, cancel_futures=True)
    for future in queued:
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(60)
    held.gate.set()
    threads.close()
    assert held.future.result(0)


def test_a_task_may_shut_its_own_pool_down_without_waiting() -> None:
    threads = ThreadPool(1)
    assert threads.submit(threads.shutdown, False).result(60) is None
    threads.close()


def test_workers_run_on_the_cpus_that_they_were_given() -> None:
    cpus = affinity.process_cpus()
    with ThreadPool(cpus=cpus) as threads:
        assert threads.stats()["threads"] == threads.stats()["pinned"] == len(cpus)
        assert threads.pin_refusal == ""
        assert set(threads.map(lambda _: len(affinity.thread_affinity()), range(20))) == {1}
    first = cpus.first
    assert first is not None
    for given in (str(first), [first], affinity.CpuSet([first])):
        with ThreadPool(2, cpus=given, pinning="shared") as threads:
            assert threads.submit(affinity.thread_affinity).result(60) == affinity.CpuSet([first])


def test_a_pin_that_is_refused_is_told_and_logged_once(capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPool(2, cpus="60000-60001", name="astray") as threads:
        assert threads.submit(int, 3).result(60) == 3
        assert threads.stats()["pinned"] == 0
        assert "may use none of them" in threads.pin_refusal
    err = capfd.readouterr().err
    assert err.count("'astray'") == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ThreadPool(cpus="0-"), "expected a number"),
        (lambda: ThreadPool(cpus=[-1]), "expected 0 to 65535"),
        (lambda: ThreadPool(cpus=3), "expected text"),  # type: ignore[arg-type]
        (lambda: ThreadPool(cpus=["a"]), "expected text"),  # type: ignore[list-item]
        (lambda: ThreadPool(pinning="tightly"), "'one_each' or 'shared'"),  # type: ignore[arg-type]
        (lambda: ThreadPool(1 << 40), "at most 65536 threads"),
    ],
)
def test_options_that_cannot_be_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        make()


def test_a_pool_that_is_dropped_with_work_finishes_it() -> None:
    future = ThreadPool(1).submit(pow, 2, 8)
    assert future.result(60) == 256
    assert trtlab.ThreadPool is ThreadPool


def test_what_is_done_is_given_however_late_somebody_asks(pool: ThreadPool) -> None:
    future = pool.submit(lambda: 3)
    assert future.result(60) == 3
    # As Executor.map asks when its time is over.
    assert (future.result(-1), future.exception(-1)) == (3, None)
