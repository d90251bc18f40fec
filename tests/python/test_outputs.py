"""Answers: views without a copy, that keep their memory alive after everything else is gone."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import FunctionModel, InferenceManager, TensorSpec, errors

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def address(of: Any) -> int:
    return int(np.asarray(of).__array_interface__["data"][0])


@pytest.fixture
def double(manager: InferenceManager, double_ir: bytes) -> trtlab.Model:
    return manager.load("double", double_ir)


def answer(value: Any, dtype: str, rank: int) -> trtlab.Tensor:
    """What comes out of a model whose function returns ``value``."""
    with FunctionModel(lambda: {"y": value}, [], [TensorSpec("y", dtype, (None,) * rank)]) as model:
        return model.infer().result(60)["y"]


def test_a_tensor_says_what_it_is(double: trtlab.Model) -> None:
    y = double.infer(x=ROWS).result(60)["y"]
    assert (y.shape, y.dtype, y.ndim, y.size, y.nbytes, len(y)) == ((2, 4), "float32", 2, 8, 32, 2)
    assert repr(y) == "trtlab.Tensor(float32[2, 4])"
    assert y.tolist() == (2 * ROWS).tolist()


def test_every_way_to_look_at_an_answer_sees_the_same_memory(double: trtlab.Model) -> None:
    y = double.infer(x=ROWS).result(60)["y"]
    views = [y.numpy(), np.asarray(y), np.asarray(memoryview(y)), np.from_dlpack(y), np.frombuffer(y, np.float32)]
    assert len({address(view) for view in views}) == 1
    y.numpy()[0, 0] = 77
    assert [float(view.ravel()[0]) for view in views] == [77] * 5
    assert y.tolist()[0][0] == 77


def test_numpy_may_convert_or_copy(double: trtlab.Model) -> None:
    y = double.infer(x=ROWS).result(60)["y"]
    np.testing.assert_array_equal(np.asarray(y, dtype=np.float64), 2 * ROWS.astype(np.float64))
    assert address(np.array(y)) != address(y)
    np.testing.assert_array_equal(np.add(y, y), 4 * ROWS)


@pytest.mark.parametrize("look", [np.asarray, np.from_dlpack, memoryview, lambda y: y, lambda y: y.numpy()[1:, ::2]])
def test_memory_outlives_its_future_model_and_manager(look: Callable[[trtlab.Tensor], Any], double_ir: bytes) -> None:
    manager = InferenceManager(max_executions=1)
    model = manager.load("double", double_ir)
    views = []
    for i in range(20):
        future = model.infer(x=np.full((50, 4), i, np.float32))
        views.append(look(future.result(60)["y"]))
    manager.close()
    del manager, model, future
    gc.collect()
    trash = [np.full((50, 4), 1e9, np.float32) for _ in range(50)]
    for i, view in enumerate(views):
        assert (np.asarray(view) == 2 * i).all()
    del trash


def test_memory_is_used_again_only_when_nobody_sees_it(double: trtlab.Model) -> None:
    kept = [double.infer(x=np.full((3, 4), i, np.float32)).result(60)["y"].numpy() for i in range(50)]
    assert len({address(view) for view in kept}) == 50
    for i, view in enumerate(kept):
        assert (view == 2 * i).all()


def test_an_answer_of_the_engine_is_writable_and_nobody_elses(double: trtlab.Model) -> None:
    first, second = (double.infer(x=ROWS).result(60)["y"].numpy() for _ in range(2))
    assert first.flags.writeable
    first[:] = -1
    np.testing.assert_array_equal(second, 2 * ROWS)
    np.testing.assert_array_equal(double.infer(x=ROWS).result(60)["y"], 2 * ROWS)


def test_an_answer_that_is_lent_memory_is_read_only_and_keeps_it_alive() -> None:
    with FunctionModel(
        lambda x: {"y": x}, [TensorSpec("x", "float32", (None, 4))], [TensorSpec("y", "float32", (None, 4))]
    ) as model:
        source = ROWS.copy()
        alive = weakref.ref(source)
        y = model.infer(x=source).result(60)["y"]
    assert address(y) == address(source)
    assert not y.numpy().flags.writeable
    assert memoryview(y).readonly
    with pytest.raises(TypeError, match="not writable"):
        (ctypes.c_char * y.nbytes).from_buffer(y)
    del source
    gc.collect()
    np.testing.assert_array_equal(y, ROWS)
    assert alive() is not None
    del y
    gc.collect()
    trtlab._bindings._core._collect()
    assert alive() is None


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
              "float32", "float64"]
)  # fmt: skip
def test_every_dtype_comes_out_as_it_is(dtype: str) -> None:
    value = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    y = answer(value, dtype, 2)
    assert y.dtype == dtype
    for seen in (y.numpy(), np.asarray(memoryview(y)), np.from_dlpack(y)):
        assert seen.dtype == value.dtype
        np.testing.assert_array_equal(seen, value)
    assert y.tolist() == value.tolist()


def test_byte_strings_come_out_whole() -> None:
    y = answer([[b"", b"a\0"], ["ö", b"\xff" * 1000]], "bytes", 2)
    expected = [[b"", b"a\0"], ["ö".encode(), b"\xff" * 1000]]
    assert (y.dtype, y.shape) == ("bytes", (2, 2))
    assert y.tolist() == expected
    assert y.numpy().dtype == object
    assert y.numpy().tolist() == expected
    with pytest.raises(BufferError, match="bytes"):
        memoryview(y)
    with pytest.raises(errors.InvalidArgument, match=r"tolist\(\) or numpy\(\)"):
        y.__dlpack__()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,) * 8])
def test_shapes_without_axes_or_elements(shape: tuple[int, ...]) -> None:
    value = np.ones(shape, np.float32)
    y = answer(value, "float32", len(shape))
    assert (y.shape, y.size) == (shape, value.size)
    for seen in (y.numpy(), np.asarray(memoryview(y)), np.from_dlpack(y)):
        assert seen.shape == shape
    assert y.tolist() == value.tolist()
    if not shape:
        with pytest.raises(TypeError, match="rank 0"):
            len(y)


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[::-1, ::2], lambda a: np.broadcast_to(a[:1], (3, 4))])
def test_answers_of_any_layout_keep_it(view: Callable[[Any], Any]) -> None:
    value = view(ROWS)
    y = answer(value, "float32", 2)
    for seen in (y.numpy(), np.asarray(memoryview(y)), np.from_dlpack(y)):
        np.testing.assert_array_equal(seen, value)
    assert y.tolist() == value.tolist()
    # Who asks for dense bytes is refused rather than shown the wrong ones.
    with pytest.raises((BufferError, ValueError)):
        np.frombuffer(y, np.float32)


def test_dlpack_there_and_back(double: trtlab.Model) -> None:
    y = double.infer(x=ROWS).result(60)["y"]
    assert y.__dlpack_device__() == (1, 0)
    imported = np.from_dlpack(y)
    assert address(imported) == address(y)
    expected = y.tolist()
    del y
    gc.collect()
    np.testing.assert_array_equal(imported, expected)
    np.testing.assert_array_equal(double.infer(x=imported).result(60)["y"], 4 * ROWS)


def test_a_capsule_that_nobody_takes_is_freed(double: trtlab.Model) -> None:
    y = double.infer(x=ROWS).result(60)["y"]
    for _ in range(10):
        y.__dlpack__()
    np.testing.assert_array_equal(y, 2 * ROWS)


@pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy])
def test_copying_what_cannot_be_copied_is_refused(use: Callable[[Any], Any], double: trtlab.Model) -> None:
    future = double.infer(x=ROWS)
    for thing in (future, double, future.result(60)["y"], double.inputs[0]):
        with pytest.raises(TypeError, match="(?i)pickle|copy"):
            use(thing)


def test_answers_can_be_referenced_weakly(double: trtlab.Model) -> None:
    y = double.infer(x=ROWS).result(60)["y"]
    alive = weakref.ref(y)
    view = y.numpy()
    del y
    assert alive() is not None
    del view
    gc.collect()
    assert alive() is None
