"""Batcher: requests joined into batches, each with its own answer, deadline and place in the queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import trtlab
from trtlab import errors

from .conftest import Gated

Python = Callable[..., str]
MakeGated = Callable[..., Gated]
Array = npt.NDArray[Any]


def rows(count: int, first: float = 0) -> Array:
    return first + np.arange(4 * count, dtype=np.float32).reshape(count, 4)


class Recorder:
    """x float32[?, ?] -> y = 2x; refuses a negative first element. Its first call waits for the gate."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.started = threading.Event()
        spec = [trtlab.TensorSpec("x", "float32", (None, None))]
        self.model = trtlab.FunctionModel(self._call, spec, [trtlab.TensorSpec("y", "float32", (None, None))])

    def _call(self, x: trtlab.Tensor) -> Array:
        array = x.numpy()
        self.shapes.append(array.shape)
        self.started.set()
        assert self.gate.wait(100)
        if (array < 0).any():
            raise ArithmeticError("negative")
        return 2 * array

    def batcher(self, **options: Any) -> trtlab.Batcher:
        """A batcher that is busy with its first request."""
        batcher = trtlab.Batcher(self.model, **options)
        batcher.infer(x=rows(1))
        assert self.started.wait(100)
        return batcher


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_requests_that_come_while_the_model_computes_are_joined(recorder: Recorder) -> None:
    with recorder.batcher() as batcher:
        inputs = [rows(n, 10 * n) for n in (1, 2, 3)]
        futures = [batcher.infer(x=x) for x in inputs]
        recorder.gate.set()
        for x, future in zip(inputs, futures, strict=True):
            np.testing.assert_array_equal(future.result(timeout=30)["y"].numpy(), 2 * x)
        assert recorder.shapes == [(1, 4), (6, 4)]
        counters = batcher.counters()
        assert (counters["batches"], counters["batched_requests"]) == (2, 4)
        assert counters["batches_of_5_to_8"] == 1
        assert batcher.stats()["completed"] == 4
        assert {use.what for use in batcher.memory()} == {"inputs joined to batches"}


def test_it_stands_in_for_its_model(manager: trtlab.InferenceManager) -> None:
    spec = [trtlab.TensorSpec("x", "float32", (None, 4))]
    model = trtlab.FunctionModel(lambda x: 2 * x.numpy(), spec, [trtlab.TensorSpec("y", "float32", (None, 4))])
    batcher = manager.register("double", trtlab.Batcher(model, max_batch_size=5))
    assert manager.model("double") is batcher
    assert (batcher.name, batcher.max_batch_size, batcher.inputs) == (model.name, 5, model.inputs)
    np.testing.assert_array_equal(batcher.infer(x=rows(2)).result(timeout=30)["y"].numpy(), 2 * rows(2))
    manager.close()
    assert batcher.closed
    assert model.closed


def test_padding_joins_requests_of_different_lengths(recorder: Recorder) -> None:
    padding = [trtlab.PaddedAxis("x", 1, [4, 8], value=1, trimmed=[("y", 1)])]
    with recorder.batcher(padding=padding) as batcher:
        inputs = [np.full((1, n), n, np.float32) for n in (5, 8, 6, 9)]
        futures = [batcher.infer(x=x) for x in inputs]
        recorder.gate.set()
        for x, future in zip(inputs, futures, strict=True):
            np.testing.assert_array_equal(future.result(timeout=30)["y"].numpy(), 2 * x)
    assert recorder.shapes == [(1, 4), (3, 8), (1, 9)]


def test_a_bad_request_fails_alone_with_its_own_exception(recorder: Recorder) -> None:
    with recorder.batcher() as batcher:
        futures = [batcher.infer(x=rows(1, first)) for first in (0, -100, 8)]
        recorder.gate.set()
        np.testing.assert_array_equal(futures[0].result(timeout=30)["y"].numpy(), 2 * rows(1))
        with pytest.raises(ArithmeticError, match="negative"):
            futures[1].result(timeout=30)
        np.testing.assert_array_equal(futures[2].result(timeout=30)["y"].numpy(), 2 * rows(1, 8))
        assert batcher.counters()["isolated"] == 3


def test_a_cancelled_request_is_not_computed(recorder: Recorder) -> None:
    with recorder.batcher() as batcher:
        futures = [batcher.infer(x=rows(1)) for _ in range(3)]
        assert futures[1].cancel()
        recorder.gate.set()
        futures[2].result(timeout=30)
        assert recorder.shapes == [(1, 4), (2, 4)]


def test_a_request_whose_deadline_is_over_times_out(recorder: Recorder) -> None:
    with recorder.batcher() as batcher:
        with pytest.raises(errors.Timeout, match="deadline was over"):
            batcher.submit({"x": rows(1)}, deadline_s=0.001).result(timeout=30)
        recorder.gate.set()
        batcher.submit({"x": rows(1)}, deadline_s=60).result(timeout=30)
        assert batcher.counters()["expired"] == 1


def test_urgent_requests_go_first(recorder: Recorder) -> None:
    with recorder.batcher(priorities=2) as batcher:
        later = batcher.submit({"x": rows(2)}, priority=1)
        first = batcher.submit({"x": np.ones((1, 3), np.float32)}, priority=0)
        recorder.gate.set()
        for future in (later, first):
            future.result(timeout=30)
        assert recorder.shapes == [(1, 4), (1, 3), (2, 4)]
        with pytest.raises(errors.InvalidArgument, match="priority 2 was asked for, there are 0 to 1"):
            batcher.submit({"x": rows(1)}, priority=2)


def test_close_answers_what_waits_or_fails_it(gated: MakeGated) -> None:
    for cancel in (False, True):
        held = gated()
        batcher = trtlab.Batcher(held.model, hold_when_idle=False)
        running = batcher.infer(x=rows(1))
        held.wait_started()
        waiting = batcher.infer(x=rows(1))
        closing = threading.Thread(target=batcher.close, kwargs={"cancel_pending": cancel})
        closing.start()
        if cancel:
            with pytest.raises(errors.Closed):
                waiting.result(timeout=30)
        held.gate.set()
        closing.join(30)
        assert running.done()
        assert waiting.done()
        assert cancel or waiting.exception() is None
        with pytest.raises(errors.Closed):
            batcher.infer(x=rows(1))


def test_close_does_not_wait_out_the_delay() -> None:
    spec = [trtlab.TensorSpec("x", "float32", (None, 4))]
    model = trtlab.FunctionModel(lambda x: x, spec, [trtlab.TensorSpec("y", "float32", (None, 4))])
    batcher = trtlab.Batcher(model, max_delay_s=3600, hold_when_idle=True)
    future = batcher.infer(x=rows(1))
    assert not future.done()
    batcher.close()
    assert future.result(timeout=0)["y"].shape == (1, 4)


def test_a_full_queue_is_overloaded(recorder: Recorder) -> None:
    with recorder.batcher(max_queue=1, queue_timeout_s=0.001) as batcher:
        batcher.infer(x=rows(1))
        with pytest.raises(errors.Overloaded, match="1 requests wait for a batch"):
            batcher.infer(x=rows(1))
        recorder.gate.set()


def test_an_event_loop_awaits_many(recorder: Recorder) -> None:
    async def ask(batcher: trtlab.Batcher, count: int) -> None:
        answers = await asyncio.gather(*(batcher.infer(x=rows(1, first)) for first in range(count)))
        for first, answer in enumerate(answers):
            np.testing.assert_array_equal(answer["y"].numpy(), 2 * rows(1, first))

    recorder.gate.set()
    with recorder.batcher() as batcher:
        asyncio.run(ask(batcher, 100))
        assert batcher.counters()["batches"] < 101


def test_threads_that_ask_at_once_get_their_own_answers(recorder: Recorder) -> None:
    recorder.gate.set()
    wrong: list[int] = []

    def ask(batcher: trtlab.Batcher, thread: int) -> None:
        for i in range(30):
            x = rows(1 + i % 3, 1000 * thread + i)
            if not np.array_equal(batcher.infer(x=x).result(timeout=60)["y"].numpy(), 2 * x):
                wrong.append(i)

    with recorder.batcher() as batcher:
        threads = [threading.Thread(target=ask, args=(batcher, thread)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_in_flight": 0}, "max_in_flight is 0"),
        ({"max_queue": 0}, "max_queue is 0"),
        ({"max_delay_s": -1}, "max_delay_s is a number of seconds >= 0"),
        ({"deadline_s": float("nan")}, "deadline_s is a number of seconds >= 0"),
        ({"priorities": 0}, "priorities is 0"),
        ({"padding": [trtlab.PaddedAxis("x", 0, [4])]}, "axis 0 is the batch"),
        ({"padding": [trtlab.PaddedAxis("x", 1, [4, 2])]}, "bucket 2 is not positive and ascending"),
    ],
)
def test_options_that_cannot_work_are_refused(recorder: Recorder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=message):
        trtlab.Batcher(recorder.model, **options)


def test_a_model_without_a_batch_axis_is_refused() -> None:
    model = trtlab.FunctionModel(lambda x: x, [trtlab.TensorSpec("x", "float32", ())], [])
    with pytest.raises(errors.InvalidArgument, match="joined along the leading axis"):
        trtlab.Batcher(model)


def test_inputs_that_disagree_about_their_rows_are_refused() -> None:
    spec = [trtlab.TensorSpec(name, "float32", (None, 4)) for name in ("a", "b")]
    with (
        trtlab.Batcher(trtlab.FunctionModel(lambda a, b: a, spec, spec[:1])) as batcher,
        pytest.raises(errors.InvalidArgument, match="'b' has 2 rows, and 'a' 1"),
    ):
        batcher.infer(a=rows(1), b=rows(2))


def test_waiting_for_room_releases_the_gil_and_hears_signals(python: Python) -> None:
    code = """
import signal, threading
import numpy as np
import trtlab

ROWS = np.ones((1, 4), np.float32)
gate, entered = threading.Event(), threading.Semaphore(0)

def answer(x):
    entered.release()
    assert gate.wait(50)
    return x

spec = lambda name: [trtlab.TensorSpec(name, "float32", (None, 4))]
batcher = trtlab.Batcher(trtlab.FunctionModel(answer, spec("x"), spec("y")), max_queue=1)
batcher.infer(x=ROWS)
entered.acquire()
batcher.infer(x=ROWS)

class Heard(Exception):
    pass

def handler(number, frame):
    raise Heard

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
try:
    batcher.submit({"x": ROWS})
except Heard:
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("heard")
gate.set()
batcher.close()
"""
    assert python(code) == "heard\n"


@pytest.mark.parametrize("end", ["busy", "held", "waiting in the model's queue", "daemon threads asking"])
def test_the_interpreter_may_exit_while_it_is_busy(python: Python, end: str) -> None:
    code = """
import atexit, threading
import numpy as np
import trtlab

ROWS = np.ones((1, 4), np.float32)
gate, entered = threading.Event(), threading.Semaphore(0)

def gated(x):
    entered.release()
    gate.wait(50)
    return x

spec = lambda name: [trtlab.TensorSpec(name, "float32", (None, 4))]
def model(function, **options):
    return trtlab.FunctionModel(function, spec("x"), spec("y"), **options)

end = END
if end == "busy":
    batcher = trtlab.Batcher(model(gated))
    futures = [batcher.infer(x=ROWS) for _ in range(50)]
    entered.acquire()
    atexit.register(gate.set)
elif end == "held":
    batcher = trtlab.Batcher(model(lambda x: x), max_delay_s=3600, hold_when_idle=True)
    futures = [batcher.infer(x=ROWS) for _ in range(5)]
elif end == "waiting in the model's queue":
    inner = model(gated, max_queue=1)
    futures = [inner.infer(x=ROWS) for _ in range(2)]
    batcher = trtlab.Batcher(inner)
    futures += [batcher.infer(x=ROWS) for _ in range(3)]
    atexit.register(gate.set)
else:
    batcher = trtlab.Batcher(model(lambda x: x))
    asked = threading.Semaphore(0)
    def ask():
        while True:
            batcher.infer(x=ROWS).result()
            asked.release()
    threading.excepthook = lambda report: None
    for _ in range(4):
        threading.Thread(target=ask, daemon=True).start()
    asked.acquire()
print("end")
"""
    assert python(code.replace("END", repr(end))) == "end\n"
