"""`WindowStream`: a stream of elements as windows that overlap."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import WindowStream, errors

Array = np.ndarray[Any, Any]


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        pass


def counting(begin: int, end: int) -> Array:
    return np.arange(begin, end, dtype=np.float32)


def test_a_stream_is_cut_into_windows_that_overlap() -> None:
    with WindowStream(4, 2) as stream:
        assert stream.write(counting(0, 9)) == 9
        stream.finish()
        seen = [(window.index, len(window), window.valid, window.numpy().tolist()) for window in stream]
    assert seen == [(i, 4, 4, counting(2 * i, 2 * i + 4).tolist()) for i in range(3)]


def test_windows_are_views_that_hold_what_they_see() -> None:
    stream = WindowStream(4, windows=2)
    stream.write(counting(0, 8))
    window = stream.next(0)
    assert window is not None
    tensor, array, view = window.tensor, np.asarray(window), memoryview(window.tensor)
    assert np.shares_memory(array, tensor.numpy())
    assert np.shares_memory(array, np.from_dlpack(window))
    assert tensor.shape == (4,)
    assert view.readonly
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    window.release()
    window.release()
    with pytest.raises(errors.Closed, match="was released"):
        _ = window.tensor
    assert stream.write(counting(8, 12), 0) == 0
    stream.close()
    del stream, window, tensor
    gc.collect()
    assert array.tolist() == view.tolist() == [0, 1, 2, 3]


def test_a_window_is_free_when_nothing_sees_it_any_more() -> None:
    stream = WindowStream(4, windows=1)
    stream.write(counting(0, 4))
    with stream.next(0) as window:  # type: ignore[union-attr]
        array = window.numpy()
    assert stream.write(counting(4, 8), 0) == 0
    del array
    gc.collect()
    assert stream.write(counting(4, 8), 0) == 4


def test_elements_may_have_a_shape_and_any_dtype() -> None:
    frames = np.arange(60, dtype=np.int16).reshape(10, 2, 3)
    stream = WindowStream(4, 1, dtype="int16", item_shape=(2, 3))
    assert stream.write(frames) == 10
    window = stream.next()
    assert window is not None
    assert window.tensor.shape == (4, 2, 3)
    assert window.tensor.dtype == "int16"
    assert (window.numpy() == frames[:4]).all()


def test_arrays_with_gaps_and_lists_are_taken_too() -> None:
    stream = WindowStream(4)
    stream.write(counting(0, 8)[::2])
    stream.write([1.0, 2.0, 3.0, 4.0])
    stream.finish()
    assert [window.numpy().tolist() for window in stream] == [[0, 2, 4, 6], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("at_end", "expected"),
    [
        ("drop", [[0, 1, 2, 3]]),
        ("shorten", [[0, 1, 2, 3], [2, 3, 4]]),
        ("pad", [[0, 1, 2, 3], [2, 3, 4, -1]]),
    ],
)
def test_the_end_of_the_stream(at_end: str, expected: list[list[float]]) -> None:
    stream = WindowStream(4, 2, at_end=at_end, pad_value=-1)
    stream.write(counting(0, 5))
    stream.finish()
    stream.finish()
    windows = [stream.next() for _ in expected]
    assert [window.numpy().tolist() for window in windows if window] == expected
    last = windows[-1]
    assert last is not None
    assert last.is_last
    assert last.valid == (4 if at_end == "drop" else 3)
    assert stream.next() is None
    with pytest.raises(errors.Closed, match="finished"):
        stream.write(counting(0, 1))


def test_a_write_waits_without_the_gil_while_too_many_windows_are_in_flight() -> None:
    with ThreadPoolExecutor(1) as pool, WindowStream(4, windows=2) as stream:
        written = pool.submit(stream.write, counting(0, 400))
        until(lambda: stream.stats()["blocked"] == 1)
        assert stream.stats()["written"] == 8
        for i in range(100):
            window = stream.next()
            assert window is not None
            assert window.numpy().tolist() == counting(4 * i, 4 * i + 4).tolist()
        assert written.result() == 400


def test_waits_end_when_their_time_is_over_or_the_stream_is_closed() -> None:
    stream = WindowStream(4, windows=1)
    with pytest.raises(errors.Timeout):
        stream.next(0.001)
    assert stream.write(counting(0, 6), 0.001) == 4
    with ThreadPoolExecutor(1) as pool:
        write = pool.submit(stream.write, counting(0, 1))
        until(lambda: stream.stats()["blocked"] == 1)
        stream.close()
        with pytest.raises(errors.Closed):
            write.result()
    with pytest.raises(errors.Closed):
        stream.next()


def test_a_stream_can_be_iterated_on_an_event_loop() -> None:
    async def main() -> list[list[float]]:
        stream = WindowStream(4, 2)
        writer = threading.Thread(target=lambda: (stream.write(counting(0, 100)), stream.finish()))
        writer.start()
        seen = [window.numpy().tolist() async for window in stream]
        writer.join()
        assert stream.stats()["in_flight"] == 0
        return seen

    assert asyncio.run(main()) == [counting(2 * i, 2 * i + 4).tolist() for i in range(49)]


def test_a_window_that_comes_as_its_task_is_cancelled_goes_to_the_next_who_asks() -> None:
    async def main() -> None:
        stream = WindowStream(4)
        windows = aiter(stream)
        for late in (False, True):
            task = asyncio.ensure_future(anext(windows))
            await asyncio.sleep(0)
            if late:
                stream.write(counting(0, 4))  # the window is there, and the task does not know it yet
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert stream.stats()["waiting"] == 0
        window = await anext(windows)
        assert window.index == 0

    asyncio.run(main())


def test_windows_are_the_inputs_of_a_model_without_a_copy() -> None:
    addresses = []

    def energy(x: Any) -> Array:
        addresses.append(x.numpy().__array_interface__["data"][0])
        return np.square(x).sum(keepdims=True)

    spec = trtlab.TensorSpec
    model = trtlab.FunctionModel(energy, [spec("x", "float32", (4,))], [spec("y", "float32", (1,))], name="energy")
    with WindowStream(4, 2) as stream:
        stream.write(counting(0, 8))
        stream.finish()
        expected = []
        answers = []
        for window in stream:
            expected.append(window.numpy().__array_interface__["data"][0])
            answers.append(model.infer(x=window.tensor).result()["y"].tolist()[0])
    model.close()
    assert addresses == expected
    assert answers == [14.0, 54.0, 126.0]


def test_a_window_in_use_is_not_overwritten_although_its_handle_is_gone() -> None:
    release = threading.Event()

    def slow(x: Any) -> Array:
        release.wait()
        return x.numpy().copy()

    spec = trtlab.TensorSpec
    model = trtlab.FunctionModel(slow, [spec("x", "float32", (4,))], [spec("y", "float32", (4,))], name="slow")
    stream = WindowStream(4, windows=1)
    stream.write(counting(0, 4))
    future = model.infer(x=stream.next().tensor)  # type: ignore[union-attr]
    gc.collect()
    assert stream.write(counting(4, 8), 0) == 0
    release.set()
    assert future.result()["y"].tolist() == [0, 1, 2, 3]
    model.close()
    del future
    gc.collect()
    assert stream.write(counting(4, 8)) == 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: WindowStream(4, 4), "overlap"),
        (lambda: WindowStream(0), "windows of 0 elements"),
        (lambda: WindowStream(4, capacity=3), "at least"),
        (lambda: WindowStream(4, dtype="float31"), "float31"),
        (lambda: WindowStream(4, dtype="bytes"), "no fixed size"),
        (lambda: WindowStream(4, item_shape=(0,)), "elements of 0 bytes"),
        (lambda: WindowStream(4, item_shape=(-1,)), "-1"),
        (lambda: WindowStream(4, at_end="stop"), "at_end is"),
        (lambda: WindowStream(4, pad_value=[1, 2]), "pad_value"),  # type: ignore[arg-type]
        (lambda: WindowStream(2**62, dtype="float64"), "4611686018427387904"),
        (lambda: iter(WindowStream(4, windows=1)), "windows=2 or more"),
        (lambda: WindowStream(4).write(np.zeros(4)), "expected float32.*, got float64"),
        (lambda: WindowStream(4).write(np.zeros((4, 1), np.float32)), r"got float32\[4, 1\]"),
        (lambda: WindowStream(4).write(object()), "elements"),
        (lambda: WindowStream(4).next(-1), "timeout"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        call()


def test_more_memory_than_there_is_is_out_of_memory() -> None:
    with pytest.raises(errors.OutOfMemory):
        WindowStream(2**50)


GPU = """
import gc, sys, threading
import numpy as np
import trtlab
from trtlab import errors

sys.path.insert(0, {folder!r})
from fake_gpu import *

PLAN = b'''trtlab fake plan 1
name twice
input x float32 -1x4
output y float32 -1x4 = double x
profile x 0x4 3x4 8x4
weights 64
activation 64
end
'''
rows = np.arange(24, dtype=np.float32).reshape(6, 4)
stream = trtlab.WindowStream(3, 2, item_shape=(4,), windows=8, device="cuda:0")
"""


@pytest.fixture
def on_gpu(python: Callable[..., str], fakes: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a program where the fake CUDA runtime has a device: ``stream`` has windows of 3 rows there, 2 shared."""
    monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", str(fakes / "libfake_cudart.so"))
    monkeypatch.setenv("TRTLAB_TENSORRT_LIBRARY", str(fakes / "fake" / "nvinfer" / "libfake_nvinfer.so"))

    def run(code: str) -> None:
        prelude = GPU.format(folder=str(Path(__file__).parent))
        assert python(f"{prelude}\n{code}\nassert fake.fake_cuda_violations() == 0\nprint('done')") == "done\n"

    return run


def test_windows_on_a_gpu_are_the_inputs_of_its_models(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
with trtlab.InferenceManager(max_executions=2) as manager:
    twice = manager.load("twice", PLAN, device="cuda:0", graphs=False)
    assert stream.write(rows) == 6
    stream.finish()
    answers = []
    for window in stream:
        assert window.tensor.device == "cuda:0"
        answers.append(twice.infer(x=window.tensor))
    for index, answer in enumerate(answers):
        assert (answer.result(60)["y"].numpy() == 2 * rows[index:index + 3]).all()
    assert len(answers) == 4
    del window, answers, answer
    gc.collect()
    assert stream.stats()["in_flight"] == 0
"""
    )


def test_a_window_on_a_gpu_is_handed_to_others_when_it_is_there(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
fake.fake_cuda_hold()
stream.write(rows)
window = stream.next(0)
assert window.__dlpack_device__() == (CUDA, 0)
capsules = []
exporting = threading.Thread(target=lambda: capsules.append(window.__dlpack__()))
exporting.start()
while fake.fake_cuda_calls(b"cudaEventSynchronize") == 0:
    pass
assert not capsules
fake.fake_cuda_release()
exporting.join()
assert len(capsules) == 1
assert (window.tensor.to_host().numpy() == rows[:3]).all()
assert window.tensor.__cuda_array_interface__["data"][1], "read-only"
try:
    np.asarray(window)
except errors.InvalidArgument as error:
    assert "to_host" in str(error)
else:
    raise AssertionError("the host cannot read it")
try:
    trtlab.WindowStream(3, device="cuda:7")
except errors.NotFound:
    pass
else:
    raise AssertionError("there is no such device")
"""
    )


def test_a_stream_on_a_gpu_that_is_still_copying_lets_the_interpreter_end(on_gpu: Callable[[str], None]) -> None:
    on_gpu("stream.write(rows)\nwindow = stream.next(0)")
