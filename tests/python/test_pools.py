"""`Pool` and `ThreadPool`, as Python sees them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trtlab
from trtlab import Pool, ThreadPool, errors


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        pass


def test_a_lease_gives_an_item_and_takes_it_back() -> None:
    pool = Pool(["a", "b"])
    unused = {"size": 2, "free": 2, "leased": 0, "waiting": 0, "acquired": 0, "waited": 0}
    assert pool.stats() == unused
    with pool.acquire() as first:
        lease = pool.acquire()
        assert {first, lease.item} == {"a", "b"}
        assert pool.try_acquire() is None
        lease.release()
        lease.release()
        again = pool.try_acquire()
        assert again is not None
        assert again.item != first
        again.release()
    assert pool.stats() == {**unused, "acquired": 3}


def test_a_lease_comes_back_when_its_user_raises_and_when_it_is_dropped() -> None:
    pool = Pool([object()])
    with pytest.raises(KeyError), pool.acquire():
        raise KeyError
    lease = pool.acquire(0)
    del lease
    assert pool.stats()["free"] == 1


def test_items_may_be_anything_that_python_has() -> None:
    items: list[Any] = [None, [], {"key": 1}, Pool([1])]
    pool = Pool(iter(items))
    leases = [pool.acquire(0) for _ in items]
    assert all(any(lease.item is item for lease in leases) for item in items)


def test_the_hook_runs_before_the_item_is_free_again() -> None:
    seen: list[tuple[str, int]] = []
    pools: list[Pool] = []
    pool = Pool(["a"], on_return=lambda item: seen.append((item, pools[0].stats()["free"])))
    pools.append(pool)
    with pool.acquire():
        pass
    pool.acquire().release()
    assert seen == [("a", 0)] * 2
    pools.clear()  # a circle: the hook knows its pool


def test_what_the_hook_raises_is_reported_and_the_item_is_free_all_the_same(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pool = Pool(["a"], on_return=lambda item: {}[item])
    pool.acquire().release()
    assert pool.try_acquire() is not None
    assert "KeyError" in capfd.readouterr().err


def test_waiters_are_served_first_come_first_served() -> None:
    pool = Pool(["a"])
    lease = pool.acquire()
    order: list[int] = []

    def take(index: int) -> None:
        with pool.acquire(60):
            order.append(index)

    with ThreadPoolExecutor(5) as threads:
        taking = []
        for index in range(5):
            taking.append(threads.submit(take, index))
            until(lambda index=index: pool.stats()["waiting"] == index + 1)
        lease.release()
        for one in taking:
            one.result(60)
    assert order == [0, 1, 2, 3, 4]


def test_closing_wakes_every_waiter_and_spares_the_leases() -> None:
    pool = Pool(["a"])
    lease = pool.acquire()
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(pool.acquire) for _ in range(3)]
        until(lambda: pool.stats()["waiting"] == 3)
        pool.close()
        for one in waiting:
            assert isinstance(one.exception(60), errors.Closed)
    assert lease.item == "a"
    assert pool.closed
    pool.close()
    with pytest.raises(errors.Closed):
        pool.try_acquire()
    lease.release()


def test_an_item_is_never_held_twice() -> None:
    pool = Pool([[], [], []])

    def use(_: int) -> None:
        with pool.acquire(60) as item:
            item.append(threading.get_ident())
            assert len(item) == 1
            item.clear()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(500)))
    assert pool.stats()["free"] == 3


def test_tasks_get_their_arguments_and_give_their_result() -> None:
    with ThreadPool(2) as threads:
        assert threads.submit(divmod, 7, 2).result(60) == (3, 1)
        assert threads.submit(dict, [("a", 1)], b=2).result(60) == {"a": 1, "b": 2}
        assert threads.submit(lambda: None).result(60) is None
        with pytest.raises(ZeroDivisionError):
            threads.submit(divmod, 1, 0).result(60)


def test_tasks_run_side_by_side_on_as_many_threads_as_asked_for() -> None:
    together = threading.Barrier(4)
    with ThreadPool(4, name="four") as threads:
        futures = [threads.submit(together.wait, 60) for _ in range(4)]
        assert sorted(future.result(60) for future in futures) == [0, 1, 2, 3]
        assert threads.stats()["threads"] == 4


def test_tasks_begin_in_the_order_of_submission() -> None:
    order: list[int] = []
    gate = threading.Event()
    with ThreadPool(1) as threads:
        threads.submit(gate.wait, 60)
        futures = [threads.submit(order.append, i) for i in range(100)]
        gate.set()
        futures[-1].result(60)
    assert order == list(range(100))


def test_a_task_may_submit_and_a_queued_one_be_cancelled() -> None:
    gate = threading.Event()
    with ThreadPool(1) as threads:
        first = threads.submit(lambda: gate.wait(60) and threads.submit(int, 5))
        queued = threads.submit(int, 6)
        assert queued.cancel()
        gate.set()
        assert first.result(60).result(60) == 5
        assert queued.cancelled()


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_runs_or_drops_what_waits(cancel: bool) -> None:
    gate, started = threading.Event(), threading.Event()
    threads = ThreadPool(1)
    first = threads.submit(lambda: (started.set(), gate.wait(60)))
    assert started.wait(60)
    queued = [threads.submit(int, i) for i in range(5)]
    with ThreadPoolExecutor(1) as closer:
        closing = closer.submit(threads.close, cancel_pending=cancel)
        if cancel:
            for future in queued:
                assert isinstance(future.exception(60), errors.Closed)
        gate.set()
        closing.result(60)
    first.result(0)
    if not cancel:
        assert [future.result(0) for future in queued] == list(range(5))
    with pytest.raises(errors.Closed):
        threads.submit(int)


def test_a_thread_that_waits_for_room_wakes_when_the_pool_is_closed() -> None:
    gate, started = threading.Event(), threading.Event()
    threads = ThreadPool(1, max_queue=1)
    threads.submit(lambda: (started.set(), gate.wait(60)))
    assert started.wait(60)
    threads.submit(int)
    with ThreadPoolExecutor(2) as others:
        blocked = others.submit(threads.submit, int)
        until(lambda: threads.stats()["blocked_callers"] == 1)
        closing = others.submit(threads.close)
        assert isinstance(blocked.exception(60), errors.Closed)
        gate.set()
        closing.result(60)


def test_closing_a_pool_from_its_own_task_is_refused() -> None:
    with ThreadPool(1) as threads:
        with pytest.raises(errors.InvalidArgument, match="own workers"):
            threads.submit(threads.close).result(60)
        assert threads.submit(int, 3).result(60) == 3


def test_as_many_threads_as_cpus_by_default() -> None:
    with ThreadPool() as threads:
        assert threads.stats()["threads"] == trtlab.usable_cpus() >= 1
