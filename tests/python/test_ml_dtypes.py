"""Element types that numpy has only through ml_dtypes: bfloat16 and float8_e4m3fn. More of them in test_inputs."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import trtlab
from trtlab import FunctionModel, TensorSpec, errors


def answer(value: Any, dtype: str, rank: int) -> trtlab.Tensor:
    """What comes out of a model whose function returns ``value``."""
    with FunctionModel(lambda: {"y": value}, [], [TensorSpec("y", dtype, (None,) * rank)]) as model:
        return model.infer().result(60)["y"]


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float8_e4m3fn", 1)])
def test_what_numpy_lacks_comes_out_through_ml_dtypes(dtype: str, size: int) -> None:
    value = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype))
    y = answer(value, dtype, 2)
    assert (y.dtype, y.nbytes) == (dtype, 6 * size)
    assert y.numpy().dtype == value.dtype
    np.testing.assert_array_equal(y.numpy(), value)
    assert y.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(BufferError, match=dtype):
        memoryview(y)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_without_ml_dtypes_the_way_out_is_said(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y = answer([1.5, 2], dtype, 1)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(errors.InvalidArgument, match=f"no {dtype} of its own: pip install ml_dtypes"):
        y.numpy()


@pytest.mark.parametrize(("dtype", "code", "bits"), [("bfloat16", 4, 16), ("float8_e4m3fn", 10, 8), ("float32", 2, 32)])
def test_dlpack_says_the_element_type(dtype: str, code: int, bits: int) -> None:
    y = answer([1.5, 2], dtype, 1)
    capsule = y.__dlpack__()
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # A DLTensor: address, device (two ints), rank, and then the type.
    at = get(capsule, b"dltensor") + 8 + 2 * 4 + 4
    assert (ctypes.c_uint8.from_address(at).value, ctypes.c_uint8.from_address(at + 1).value) == (code, bits)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float32", "bfloat16"])
def test_an_answer_goes_into_another_model_through_dlpack(dtype: str) -> None:
    class OnlyDlpack:
        def __dlpack__(self, **options: Any) -> Any:
            return first.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return first.__dlpack_device__()

    first = answer([1.5, -2], dtype, 1)
    second = answer(OnlyDlpack(), dtype, 1)
    assert (second.dtype, second.tolist()) == (dtype, [1.5, -2])


def test_floats_become_the_nearest_of_eight_bits() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = np.sort(codes[(codes & 0x7F) != 0x7F].view(ml_dtypes.float8_e4m3fn).astype(np.float64))
    halves = (values[1:] + values[:-1]) / 2
    beside = [np.nextafter(halves, -np.inf), halves, np.nextafter(halves, np.inf)]
    given_ = np.concatenate([values, *beside, [464.0, -464.0]])
    # From what float32 holds, as ml_dtypes goes through it and would round twice.
    exact = given_[given_ == given_.astype(np.float32)]
    seen = answer(exact.tolist(), "float8_e4m3fn", 1).numpy()
    assert seen.tobytes() == exact.astype(ml_dtypes.float8_e4m3fn).tobytes()
    seen = answer(given_.tolist(), "float8_e4m3fn", 1).numpy().astype(np.float64)
    assert (np.abs(seen - given_) <= np.abs(given_[:, None] - values).min(axis=1)).all()
