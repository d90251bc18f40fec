"""Futures have the habits of ``concurrent.futures``."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import errors

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Make = Callable[..., Any]


def test_a_result_is_a_mapping_of_names_to_tensors(gated: Make) -> None:
    one = gated()
    one.gate.set()
    result = one.model.infer(x=ROWS).result()
    assert list(result) == ["y"]
    assert isinstance(result["y"], trtlab.Tensor)
    np.testing.assert_array_equal(result["y"], 2 * ROWS)


def test_a_future_goes_from_pending_to_running_to_done(gated: Make) -> None:
    one = gated()
    first, second = one.model.infer(x=ROWS), one.model.infer(x=ROWS)
    one.wait_started()
    assert (first.running(), first.done(), first.cancelled()) == (True, False, False)
    assert (second.running(), second.done(), second.cancelled()) == (False, False, False)
    assert "running" in repr(first)
    assert "pending" in repr(second)
    one.gate.set()
    second.result(60)
    assert (first.running(), first.done(), first.cancelled()) == (False, True, False)
    assert "done" in repr(first)


def test_asking_twice_gives_the_same_object(gated: Make) -> None:
    one = gated()
    one.gate.set()
    future = one.model.infer(x=ROWS)
    assert future.result() is future.result(0)
    with trtlab.ThreadPool(1) as threads:
        answer = object()
        future = threads.submit(lambda: answer)
        assert future.result() is answer
        assert future.result() is answer


def test_a_timeout_leaves_the_request_alone(gated: Make) -> None:
    one = gated()
    future = one.model.infer(x=ROWS)
    for timeout in (0, 0.0, 1e-9, 0.001):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(errors.Timeout):
            future.exception(timeout)
    one.gate.set()
    np.testing.assert_array_equal(future.result(timeout=60)["y"], 2 * ROWS)


@pytest.mark.parametrize("timeout", [None, 1e300, float("inf"), 3e9, 1])
def test_a_timeout_may_be_as_long_as_one_likes(gated: Make, timeout: float | None) -> None:
    one = gated()
    one.gate.set()
    np.testing.assert_array_equal(one.model.infer(x=ROWS).result(timeout)["y"], 2 * ROWS)


def test_cancelling_works_until_execution_begins(gated: Make) -> None:
    one = gated()
    running, queued = one.model.infer(x=ROWS), one.model.infer(x=ROWS)
    one.wait_started()
    assert not running.cancel()
    assert queued.cancel()
    assert queued.cancel()
    assert queued.done()
    assert queued.cancelled()
    assert "cancelled" in repr(queued)
    with pytest.raises(concurrent.futures.CancelledError):
        queued.result(0)
    with pytest.raises(errors.Cancelled):
        queued.exception(0)
    one.gate.set()
    np.testing.assert_array_equal(running.result(60)["y"], 2 * ROWS)
    assert not running.cancel()
    np.testing.assert_array_equal(one.model.infer(x=ROWS).result(60)["y"], 2 * ROWS)
    assert one.calls == 2
    assert one.model.stats()["cancelled"] == 1


def test_a_thread_that_waits_for_a_cancelled_request_wakes(gated: Make) -> None:
    one = gated()
    one.model.infer(x=ROWS)
    queued = one.model.infer(x=ROWS)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queued.result)
        assert queued.cancel()
        assert isinstance(waiting.exception(60), errors.Cancelled)


class Failure(Exception):
    pass


def failing(error: BaseException) -> trtlab.FunctionModel:
    def answer(x: trtlab.Tensor) -> None:
        raise error

    return trtlab.FunctionModel(answer, [trtlab.TensorSpec("x", "float32", (None, 4))], [], name="failing")


def test_what_a_function_raises_is_what_result_raises() -> None:
    error = Failure("own words")
    with failing(error) as model:
        with pytest.raises(Failure) as caught:
            model.infer(x=ROWS).result(60)
        assert caught.value is error
        assert [entry.name for entry in caught.traceback][-1] == "answer"
        assert model.infer(x=ROWS).exception(60) is error
        assert model.stats()["failed"] == 2


def test_exception_is_none_for_an_answer(gated: Make) -> None:
    one = gated()
    one.gate.set()
    assert one.model.infer(x=ROWS).exception(60) is None


def test_a_failure_caught_beside_its_future_is_freed() -> None:
    with failing(Failure()) as model, trtlab.ThreadPool(1) as threads:
        for future in (model.infer(x=ROWS), threads.submit({}.pop, "key")):
            for _ in range(2):
                with pytest.raises((Failure, KeyError)):
                    future.result(60)


def test_a_future_that_its_own_answer_knows_is_freed() -> None:
    class Answer:
        future: trtlab.Future

    with trtlab.ThreadPool(1) as threads:
        future = threads.submit(Answer)
        future.result(60).future = future


def test_callbacks_run_once_each_in_order_with_the_future(gated: Make) -> None:
    one = gated()
    future = one.model.infer(x=ROWS)
    seen: list[tuple[int, object, bool]] = []
    last = threading.Event()
    for index in range(5):
        future.add_done_callback(lambda done, index=index: seen.append((index, done, done.done())))
    future.add_done_callback(lambda _: last.set())
    assert seen == []
    one.gate.set()
    assert last.wait(60)
    assert seen == [(index, future, True) for index in range(5)]
    future.add_done_callback(lambda done: seen.append((5, done, done.done())))
    assert seen[5:] == [(5, future, True)]


def test_callbacks_run_for_a_cancelled_and_for_a_failed_request(gated: Make) -> None:
    one = gated()
    one.model.infer(x=ROWS)
    queued = one.model.infer(x=ROWS)
    called = threading.Semaphore(0)
    queued.add_done_callback(lambda done: called.release() if done.cancelled() else None)
    queued.cancel()
    assert called.acquire(timeout=60)
    entered = threading.Event()
    with trtlab.ThreadPool(1) as threads:
        failed = threads.submit(lambda: entered.wait(60) and {}["key"])
        failed.add_done_callback(lambda done: called.release() if isinstance(done.exception(), KeyError) else None)
        entered.set()
        assert called.acquire(timeout=60)


def test_a_callback_may_send_the_next_request(gated: Make) -> None:
    one = gated()
    rounds: list[float] = []
    over = threading.Event()

    def again(done: trtlab.Future) -> None:
        rounds.append(float(done.result()["y"].numpy()[0, 0]))
        if len(rounds) == 10:
            over.set()
        else:
            one.model.infer(x=done.result()["y"]).add_done_callback(again)

    one.model.infer(x=np.ones((1, 4), np.float32)).add_done_callback(again)
    one.gate.set()
    assert over.wait(60)
    assert rounds == [2.0**power for power in range(1, 11)]


def test_what_a_callback_raises_is_reported_and_harms_nobody(gated: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    one = gated()
    future = one.model.infer(x=ROWS)
    last = threading.Event()
    future.add_done_callback(lambda _: {}["from the thread"])
    future.add_done_callback(lambda _: last.set())
    one.gate.set()
    assert last.wait(60)
    future.add_done_callback(lambda _: {}["at once"])
    assert [str(report.exc_value) for report in reported] == ["'from the thread'", "'at once'"]
    assert {report.exc_type for report in reported} == {KeyError}
    assert all(report.object is future for report in reported)
    reported.clear()


def test_many_threads_may_wait_for_one_future(gated: Make) -> None:
    one = gated()
    future = one.model.infer(x=ROWS)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(future.result) for _ in range(8)]
        one.gate.set()
        results = [wait.result(60) for wait in waiting]
    assert all(result is results[0] for result in results)
