"""Objects used in ways that nobody means: never initialized, in a cycle, of the wrong type, in another interpreter."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trtlab

from .conftest import Gated

X = [trtlab.TensorSpec("x", "float32", (None, 4))]
Y = [trtlab.TensorSpec("y", "float32", (None, 4))]
ROW = np.ones((1, 4), np.float32)


class Forgetful(trtlab.FunctionModel):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("make", [Forgetful, lambda: trtlab.Model.__new__(trtlab.Model)])
def test_a_model_that_was_never_initialized_is_refused(make: Callable[[], trtlab.Model]) -> None:
    with pytest.raises((trtlab.errors.InvalidArgument, TypeError), match=r"initialized|cannot create"):
        make().infer(x=ROW)


def test_a_tensor_that_was_never_initialized_has_no_buffer() -> None:
    with pytest.raises((BufferError, TypeError)):
        memoryview(trtlab.Tensor.__new__(trtlab.Tensor))


def test_what_is_no_model_cannot_be_registered(manager: trtlab.InferenceManager) -> None:
    with pytest.raises(trtlab.errors.InvalidArgument, match=r"'f'.*trtlab\.Model.*function.*FunctionModel"):
        manager.register("f", lambda x: x)  # type: ignore[arg-type]
    assert manager.names == []


def test_lent_memory_is_read_only_for_dlpack_consumers_too() -> None:
    seen: list[bool] = []

    def function(x: trtlab.Tensor) -> Any:
        seen.append(np.from_dlpack(x).flags.writeable)
        return 2 * np.asarray(x)

    with trtlab.FunctionModel(function, X, Y) as model:
        answer = model.infer(x=ROW).result(timeout=30)["y"]
    assert seen == [False]
    assert np.asarray(answer).flags.writeable
    assert np.from_dlpack(answer).flags.writeable


def test_what_a_function_hands_back_read_only_stays_so() -> None:
    with trtlab.FunctionModel(lambda x: np.asarray(x), X, Y) as model:
        answer = model.infer(x=ROW).result(timeout=30)["y"]
    assert not np.asarray(answer).flags.writeable


def test_a_strided_tensor_gives_no_dense_buffer() -> None:
    strided = np.zeros((2, 8), np.float32)[:, ::2]
    seen: list[BaseException | None] = []

    def function(x: trtlab.Tensor) -> Any:
        try:
            np.frombuffer(x, np.float32)  # type: ignore[call-overload]
            seen.append(None)
        except (BufferError, ValueError) as error:
            seen.append(error)
        return np.asarray(x)

    with trtlab.FunctionModel(function, X, Y) as model:
        model.infer(x=strided).result(timeout=30)
    assert isinstance(seen[0], (BufferError, ValueError))


def test_a_model_of_a_method_of_the_object_that_holds_it_is_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.model = trtlab.FunctionModel(self.call, X, Y)

        def call(self, x: trtlab.Tensor) -> Any:
            return np.asarray(x)

    holder = Holder()
    holder.model.infer(x=ROW).result(timeout=30)
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def test_the_collector_leaves_the_function_of_a_request_that_executes() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Holder:
        def __init__(self) -> None:
            self.model = trtlab.FunctionModel(self.call, X, Y)

        def call(self, x: trtlab.Tensor) -> Any:
            entered.set()
            assert leave.wait(60)
            return 3 * np.asarray(x)

    holder = Holder()
    first, second = holder.model.infer(x=ROW), holder.model.infer(x=ROW)
    assert entered.wait(60)
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is not None
    leave.set()
    assert first.result(timeout=60)["y"].tolist() == [[3, 3, 3, 3]]
    assert second.result(timeout=60)["y"].tolist() == [[3, 3, 3, 3]]
    del first, second
    for _ in range(1000):
        gc.collect()
        if gone() is None:
            break
    assert gone() is None


def test_a_failed_future_in_the_traceback_of_its_own_error_is_collected() -> None:
    def fail(x: trtlab.Tensor) -> Any:
        raise KeyError("boom")

    def ask(model: trtlab.Model) -> weakref.ref[trtlab.Future]:
        future = model.infer(x=ROW)
        with pytest.raises(KeyError, match="boom"):
            future.result(timeout=30)
        with pytest.raises(KeyError, match="boom"):  # the same error, every time
            future.result()
        return weakref.ref(future)

    with trtlab.FunctionModel(fail, X, Y) as model:
        gone = ask(model)
        gc.collect()
        assert gone() is None


def test_specs_compare_by_what_they_say() -> None:
    first, second = (trtlab.TensorSpec("x", "float32", (None, (1, 4), 3)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != trtlab.TensorSpec("x", "float32", (None, (1, 5), 3))
    assert first != "x"


@pytest.mark.parametrize(
    ("dtype", "value", "problem"),
    [
        ("float32", [[1e300, 0, 0, 0]], "without loss"),
        ("float32", [[2**24 + 1, 0, 0, 0]], "without loss"),
        ("int32", [[1.5, 0, 0, 0]], "without loss"),
        ("uint8", [[256, 0, 0, 0]], "without loss"),
        ("uint8", [[-1, 0, 0, 0]], "without loss"),
    ],
)
def test_a_list_that_the_dtype_cannot_hold_is_refused(dtype: str, value: Any, problem: str) -> None:
    x, y = trtlab.TensorSpec("x", dtype, (None, 4)), trtlab.TensorSpec("y", dtype, (None, 4))
    with (
        trtlab.FunctionModel(lambda x: np.asarray(x), [x], [y]) as model,
        pytest.raises(trtlab.errors.InvalidArgument, match=problem),
    ):
        model.infer(x=value)


@pytest.mark.parametrize("value", [["\ud800"], [[[[[[[[["deep"]]]]]]]]]])
def test_byte_strings_that_cannot_be_are_refused(value: Any) -> None:
    x, y = trtlab.TensorSpec("x", "bytes", (None,)), trtlab.TensorSpec("y", "bytes", (None,))
    with (
        trtlab.FunctionModel(lambda x: x, [x], [y]) as model,
        pytest.raises(trtlab.errors.InvalidArgument, match=r"UTF-8|deeper"),
    ):
        model.infer(x=value)


def test_a_forked_child_is_refused_what_its_parent_would_have_to_do(python: Callable[..., str]) -> None:
    out = python(
        """
import asyncio, os, threading, trtlab

gate = threading.Event()
spec = [trtlab.TensorSpec("x", "float32", (None,))]
model = trtlab.FunctionModel(lambda x: gate.wait() and x, spec, spec)
pending = model.infer(x=[1.0])
pool = trtlab.Pool([1])


async def wait():
    return await pending


if os.fork() == 0:
    for what in (lambda: asyncio.run(wait()), lambda: pending.add_done_callback(print), pending.result, pool.acquire):
        try:
            what()
        except trtlab.errors.Closed as error:
            assert "parent process" in str(error)
        else:
            os._exit(3)
    os._exit(0)
_, status = os.wait()
gate.set()
pending.result()
print(os.waitstatus_to_exitcode(status))
""".replace("os.fork() == 0", "(__import__('warnings').simplefilter('ignore'), os.fork())[1] == 0")
    )
    assert out == "0\n"


def test_a_second_interpreter_is_refused_and_the_first_keeps_its_errors(python: Callable[..., str]) -> None:
    out = python(
        """
import trtlab

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

code = '''
try:
    import trtlab
except ImportError as error:
    assert "main interpreter" in str(error) or "subinterpreters" in str(error), error
else:
    raise SystemExit("imported")
'''
other = interpreters.create()
problem = getattr(interpreters, "exec", None) or interpreters.run_string
print(problem(other, code))
interpreters.destroy(other)
try:
    trtlab.TensorSpec("x", "float99", ())
except trtlab.errors.InvalidArgument:
    print("still mine")
"""
    )
    assert out == "None\nstill mine\n"


def test_models_that_are_gated_close_without_their_gate(gated: Callable[..., Gated]) -> None:
    one = gated()
    future = one.model.infer(x=ROW)
    one.wait_started()
    closing = threading.Thread(target=one.model.close)
    closing.start()
    one.gate.set()
    closing.join(60)
    assert not closing.is_alive()
    assert future.result(timeout=0)["y"].tolist() == [[2, 2, 2, 2]]
