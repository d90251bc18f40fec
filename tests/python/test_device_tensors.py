"""Memory of GPUs and pinned memory, as far as no GPU is needed: what host models refuse, unread, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import FunctionModel, TensorSpec, errors
from trtlab._bindings import _core

from .test_inputs import Array, Exporter

X = [TensorSpec("x", "float32", (None, None))]
Y = [TensorSpec("y", "float32", (None, None))]
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


class Unwilling(Exporter):
    """Tells its device, and must not be asked for more."""

    def __dlpack__(self, **options: object) -> object:
        raise AssertionError("asked for memory that the model does not read")


class CudaArray:
    """Shows itself through `__cuda_array_interface__` alone."""

    def __init__(self, interface: Any) -> None:
        self.__cuda_array_interface__ = interface


def interface(**changes: Any) -> dict[str, Any]:
    """What a dense float32[3, 4] says of itself; ``...`` leaves an entry out."""
    entries = {"version": 3, "shape": (3, 4), "typestr": "<f4", "data": (4096, False), "strides": None, "stream": None}
    return {key: value for key, value in (entries | changes).items() if value is not ...}


def echo(value: Any) -> trtlab.Tensor:
    """Return ``value`` as a model's answer."""
    with FunctionModel(lambda x: x, X, Y, name="echo") as model:
        return model.infer(x=value).result(60)["y"]


def refusal(value: Any) -> str:
    """Return why a model that reads host memory refuses ``value``."""
    with FunctionModel(lambda x: x, X, Y, name="echo") as model, pytest.raises(errors.InvalidArgument) as refused:
        model.infer(x=value)
    message = str(refused.value)
    assert message.startswith("model 'echo', input 'x': expected float32[?, ?], got ")
    return message


def address(of: Array) -> int:
    return int(of.__array_interface__["data"][0])


def test_pinned_memory_is_read_in_place_and_known_to_be_pinned() -> None:
    seen: list[tuple[str, int]] = []

    def look(x: trtlab.Tensor) -> dict[str, Any]:
        seen.append((x.device, address(x.numpy())))
        return {}

    with FunctionModel(look, X, []) as model:
        model.infer(x=Exporter(ROWS, device=3)).result(60)
    assert seen == [("cuda_host", address(ROWS))]


def test_pinned_memory_that_only_its_device_tells_of_is_known_too() -> None:
    class Told(Exporter):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (3, 0)

    assert echo(Told(ROWS)).device == "cuda_host"
    assert echo(Exporter(ROWS)).device == "cpu"


def test_an_answer_in_pinned_memory_is_a_host_tensor() -> None:
    y = echo(Exporter(ROWS, device=3))
    assert repr(y) == "trtlab.Tensor(float32[3, 4] on cuda_host)"
    assert y.__dlpack_device__() == (1, 0)  # PyTorch knows no pinned memory of others
    assert y.to_host() is y
    assert not hasattr(y, "__cuda_array_interface__")
    for seen in (y.numpy(), np.asarray(memoryview(y)), np.from_dlpack(y), np.from_dlpack(y, device="cpu")):
        assert address(seen) == address(ROWS)
        np.testing.assert_array_equal(seen, ROWS)


def test_an_answer_in_host_memory_says_so() -> None:
    y = echo(ROWS)
    assert (y.device, y.__dlpack_device__(), repr(y)) == ("cpu", (1, 0), "trtlab.Tensor(float32[3, 4])")
    assert y.to_host() is y
    assert not hasattr(y, "__cuda_array_interface__")
    with pytest.raises(AttributeError, match="host memory"):
        y.__cuda_array_interface__  # noqa: B018


@pytest.mark.parametrize("device", [1, 3])
def test_an_export_that_cannot_be_made_is_a_buffer_error(device: int) -> None:
    y = echo(Exporter(ROWS, device=device))
    for options in ({"dl_device": (2, 0)}, {"dl_device": (1, 1)}, {"copy": True}, {"dl_device": "cpu"}):
        with pytest.raises(BufferError):
            y.__dlpack__(**options)
    for options in ({"dl_device": (1, 0)}, {"dl_device": (device, 0), "copy": False}, {"stream": -1}, {"stream": None}):
        assert "dltensor" in repr(y.__dlpack__(**options))
    assert "dltensor_versioned" in repr(y.__dlpack__(max_version=(1, 0)))


@pytest.mark.parametrize(("device", "name"), [(2, "a GPU's"), (13, "managed")])
def test_memory_of_a_gpu_is_refused_without_asking_for_it(device: int, name: str) -> None:
    message = refusal(Unwilling(ROWS, device=device))
    assert f"Unwilling in memory of another device (DLPack device type {device})" in message, name
    assert "this model reads host memory, copy it there first" in message


def test_memory_of_a_gpu_is_refused_as_an_answer_too() -> None:
    for value in (Unwilling(ROWS, device=2), CudaArray(interface())):
        with (
            FunctionModel(lambda value=value: value, [], Y, name="wrong") as model,
            pytest.raises(errors.EngineError, match=r"'wrong', output 'y'.*another device.*model's function"),
        ):
            model.infer().result(60)


def test_an_array_that_copies_itself_to_the_host_is_still_refused() -> None:
    class Copying(CudaArray):
        def __array__(self, *_: object, **__: object) -> Array:
            raise AssertionError("copied behind the caller's back")

    assert "another device (by its __cuda_array_interface__)" in refusal(Copying(interface()))


def test_an_export_that_lies_elsewhere_than_it_told_is_refused_and_given_back() -> None:
    class Lying(Exporter):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    exporter = Lying(ROWS, device=2)
    assert "another device (DLPack device type 2)" in refusal(exporter)
    _core._collect()
    assert exporter.deleted == 1


@pytest.mark.parametrize(
    "told", [None, 2, (2,), (2, 0, 0), ("cuda", 0), (2, None), (2**40, 0), [2, 0]], ids=lambda told: str(told)
)
def test_a_device_that_makes_no_sense_is_refused(told: Any) -> None:
    class Confused(Unwilling):
        def __dlpack_device__(self) -> Any:
            return told

    assert "tells no device" in refusal(Confused(ROWS))


def test_a_device_that_cannot_be_told_is_refused_in_the_words_of_its_exporter() -> None:
    class Failing(Unwilling):
        def __dlpack_device__(self) -> Any:
            raise ValueError("no DLPack for the device 'meta'")

    assert "Failing whose DLPack export tells no device: ValueError: no DLPack for the device 'meta'" in refusal(
        Failing(ROWS)
    )


def test_an_interrupt_while_the_device_is_asked_for_is_no_refusal() -> None:
    class Interrupted(Unwilling):
        def __dlpack_device__(self) -> Any:
            raise KeyboardInterrupt

    with FunctionModel(lambda x: x, X, Y) as model, pytest.raises(KeyboardInterrupt):
        model.infer(x=Interrupted(ROWS))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("float32", "is no dict"),
        ({}, "has version None: expected 2 or 3"),
        (interface(version=1), "has version 1: expected 2 or 3"),
        (interface(version=4), "has version 4: expected 2 or 3"),
        (interface(version="3"), "has version '3': expected 2 or 3"),
        (interface(mask=CudaArray(interface())), "has a mask"),
        (interface(typestr=...), "has typestr None"),
        (interface(typestr=4), "has typestr 4"),
        (interface(typestr=">f4"), "has the other byte order (typestr '>f4')"),
        *(
            (interface(typestr=typestr), f"has an element type without equivalent here (typestr '{typestr}')")
            for typestr in ("", "<", "f4", "<f", "<f1", "<f3", "<f9", "<f16", "<c8", "|V2", "<b2", "|O8", "<i0", "<ü4")
        ),
        (interface(shape=...), "has shape None: expected a tuple of ints"),
        (interface(shape=12), "has shape 12: expected a tuple of ints"),
        (interface(shape=(3, "4")), "has shape (3, '4'): expected a tuple of ints"),
        (interface(shape=(3, 2**70)), "expected a tuple of ints"),
        (interface(shape=(3, -4)), "negative"),
        (interface(shape=(2**40, 2**40)), "overflow"),
        (interface(shape=(1,) * 9), "8"),
        (interface(strides=(16,)), "has strides (16,) for the shape (3, 4)"),
        (interface(strides=16), "has strides 16 for the shape (3, 4)"),
        (interface(data=...), "has data None: expected (address, read-only)"),
        (interface(data=4096), "has data 4096: expected (address, read-only)"),
        (interface(data=(4096,)), "has data (4096,): expected (address, read-only)"),
        (interface(data=("4096", False)), "expected (address, read-only)"),
        (interface(data=(-1, False)), "expected (address, read-only)"),
        (interface(data=(4096, None)), "expected (address, read-only)"),
        (interface(data=(0, False)), "has a null address"),
        (interface(stream=0), "has stream 0: expected None, 1, 2 or a stream's handle"),
        (interface(stream=-1), "has stream -1: expected None, 1, 2 or a stream's handle"),
        (interface(stream="1"), "has stream '1': expected None, 1, 2 or a stream's handle"),
    ],
    ids=range(42),
)
def test_a_broken_cuda_array_interface_is_refused(broken: Any, problem: str) -> None:
    message = refusal(CudaArray(broken))
    assert "CudaArray whose __cuda_array_interface__ " in message
    assert problem in message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": 2, "stream": ..., "strides": ...},
        {"strides": (16, 4)},
        {"strides": (-16, 0)},
        {"shape": (0, 4), "data": (0, True)},
        {"shape": [3, 4], "stream": 1},
        {"stream": 2},
        {"stream": 2**63, "mask": None},
        *({"typestr": typestr} for typestr in ("|b1", "|i1", "<i2", "=i4", "<i8", "|u1", "<u8", "<f2", "<f8")),
    ],
    ids=str,
)
def test_a_whole_cuda_array_interface_is_understood_and_then_refused_by_a_host_model(changes: dict[str, Any]) -> None:
    assert "another device (by its __cuda_array_interface__): this model reads host memory, copy it there first" in (
        refusal(CudaArray(interface(**changes)))
    )


def test_memory_of_a_gpu_has_no_strings() -> None:
    class OnGpu(CudaArray):
        def __array__(self, *_: object, **__: object) -> Array:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    with (
        FunctionModel(lambda x: {}, [TensorSpec("x", "bytes", (None,))], []) as model,
        pytest.raises(errors.InvalidArgument, match=r"expected bytes, got a OnGpu that numpy cannot read: can"),
    ):
        model.infer(x=OnGpu(interface()))


def test_a_refusal_needs_no_cuda(python: Callable[..., str]) -> None:
    out = python(
        """
import sys
import trtlab

class OnGpu:
    def __dlpack_device__(self):
        return (2, 0)
    def __dlpack__(self, **options):
        raise AssertionError

spec = [trtlab.TensorSpec("x", "float32", (None,))]
with trtlab.FunctionModel(lambda x: x, spec, spec) as model:
    try:
        model.infer(x=OnGpu())
    except trtlab.errors.InvalidArgument:
        print("refused")
assert "trtlab.cuda" not in sys.modules
with open("/proc/self/maps") as maps:
    assert "cudart" not in maps.read()
"""
    )
    assert out == "refused\n"
