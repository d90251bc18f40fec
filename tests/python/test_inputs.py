"""What `infer` takes: read where it is, converted without loss, or refused; never misread."""

from __future__ import annotations

import array
import ctypes
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import trtlab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trtlab import FunctionModel, TensorSpec, errors

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float8_e4m3fn", "float16", "bfloat16", "float32", "float64"]  # fmt: skip
OF_ML_DTYPES = ["bfloat16", "float8_e4m3fn"]
NUMERIC = [dtype for dtype in DTYPES if dtype not in OF_ML_DTYPES]
Array = np.ndarray[Any, Any]


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, dtype) if dtype in OF_ML_DTYPES else dtype)


class Copies:
    """Models that answer with a copy of what they were given, of any shape up to rank 8."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, int], FunctionModel] = {}

    def model(self, dtype: str, rank: int) -> FunctionModel:
        key = (dtype, rank)
        if key not in self.models:
            self.models[key] = FunctionModel(
                lambda x: {"y": x.numpy().copy()},
                inputs=[TensorSpec("x", dtype, (None,) * rank)],
                outputs=[TensorSpec("y", dtype, (None,) * rank)],
                name=f"copy of {dtype}",
            )
        return self.models[key]

    def of(self, value: Any, dtype: str, rank: int) -> Array:
        """What a model sees of ``value``."""
        return self.model(dtype, rank).infer(x=value).result(60)["y"].numpy()


@pytest.fixture
def copies() -> Iterator[Copies]:
    made = Copies()
    yield made
    for model in made.models.values():
        model.close()
    made.models.clear()


def assert_same(seen: Array, given_: Array) -> None:
    assert seen.dtype == given_.dtype
    assert seen.shape == given_.shape
    # Bytes, so that a NaN equals itself and -0.0 differs from 0.0.
    assert seen.tobytes() == given_.tobytes()


def sample(dtype: str, *shape: int) -> Array:
    return (np.arange(np.prod(shape)).reshape(shape) % 101).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_it_is(copies: Copies, dtype: str) -> None:
    given_ = sample(dtype, 3, 5)
    assert_same(copies.of(given_, dtype, 2), given_)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_an_array_of_another_dtype_is_refused(copies: Copies, dtype: str, other: str) -> None:
    if dtype == other:
        assert_same(copies.of(sample(dtype, 2), dtype, 1), sample(dtype, 2))
        return
    with pytest.raises(errors.InvalidArgument, match=rf"'x': expected {dtype}\[\?\], got {other}\[2\]"):
        copies.of(sample(other, 2), dtype, 1)


VIEWS: dict[str, Callable[[Array], Array]] = {
    "transposed": lambda a: a.T,
    "in column order": np.asfortranarray,
    "every other row": lambda a: a[::2],
    "every other column": lambda a: a[:, ::2],
    "backwards": lambda a: a[::-1, ::-1],
    "backwards in steps": lambda a: a[::-2, ::-3],
    "a column": lambda a: a[:, 1:2],
    "broadcast": lambda a: np.broadcast_to(a[:1], (4, a.shape[1])),
    "of length one": lambda a: a[:1, :1],
    "empty rows": lambda a: a[:0],
    "empty columns": lambda a: a[:, 3:3],
}


@pytest.mark.parametrize("dtype", ["bool", "int16", "float8_e4m3fn", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("view", VIEWS)
def test_any_layout_is_read_in_the_order_of_its_indices(copies: Copies, dtype: str, view: str) -> None:
    given_ = VIEWS[view](sample(dtype, 6, 7))
    assert_same(copies.of(given_, dtype, 2), given_)


def test_a_misaligned_array_is_read(copies: Copies) -> None:
    block = np.zeros(41, np.uint8)
    given_ = block[1:].view(np.float32)
    given_[:] = np.arange(10)
    assert not given_.flags.aligned
    assert_same(copies.of(given_, "float32", 1), given_)


def test_a_field_of_records_is_read(copies: Copies) -> None:
    records = np.zeros(5, [("tag", "u1"), ("value", "f4")])
    records["value"] = np.arange(5)
    assert_same(copies.of(records["value"], "float32", 1), np.arange(5, dtype=np.float32))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0, 2), (1,) * 8, (2,) * 8])
def test_every_rank_up_to_eight_and_no_elements(copies: Copies, shape: tuple[int, ...]) -> None:
    given_ = sample("float32", *shape)
    assert_same(copies.of(given_, "float32", len(shape)), given_)


@pytest.mark.parametrize("dtype", [dtype for dtype in NUMERIC if np.dtype(dtype).itemsize > 1])
def test_the_other_byte_order_is_refused_and_never_misread(copies: Copies, dtype: str) -> None:
    swapped = sample(dtype, 4).astype(np.dtype(dtype).newbyteorder(">" if sys.byteorder == "little" else "<"))
    with pytest.raises(errors.InvalidArgument, match="byte order"):
        copies.of(swapped, dtype, 1)
    assert_same(copies.of(swapped.astype(swapped.dtype.newbyteorder("=")), dtype, 1), sample(dtype, 4))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8"])
def test_one_byte_has_no_byte_order(copies: Copies, dtype: str) -> None:
    assert_same(copies.of(sample(dtype, 4).astype(">" + np.dtype(dtype).str[1:]), dtype, 1), sample(dtype, 4))


def test_a_read_only_array_is_read(copies: Copies) -> None:
    given_ = sample("float32", 4)
    given_.flags.writeable = False
    assert_same(copies.of(given_, "float32", 1), given_)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (array.array("f", [1, 2, 3]), "float32", [1, 2, 3]),
        (array.array("l", [1, -2]), "int64", [1, -2]),
        (array.array("H", [1, 65535]), "uint16", [1, 65535]),
        (b"abc", "uint8", [97, 98, 99]),
        (bytearray(b"\xff\x00"), "uint8", [255, 0]),
        (memoryview(array.array("d", range(6)))[::-2], "float64", [5, 3, 1]),
        ((ctypes.c_int32 * 3)(1, 2, 3), "int32", [1, 2, 3]),
        ((ctypes.c_float * 2)(0.5, 2), "float32", [0.5, 2]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (str, list)) else None,
)
def test_buffers_of_python_are_read(copies: Copies, value: Any, dtype: str, expected: list[Any]) -> None:
    assert_same(copies.of(value, dtype, 1), np.array(expected, dtype))


@pytest.mark.parametrize(
    ("value", "dtype", "rank"),
    [
        (3, "int32", 0),
        (3, "float32", 0),
        (2.5, "float64", 0),
        (2.5, "bfloat16", 0),
        (2.5, "float8_e4m3fn", 0),
        (18, "float8_e4m3fn", 0),
        (True, "bool", 0),
        (True, "uint8", 0),
        (-1, "int8", 0),
        (2**64 - 1, "uint64", 0),
        (-(2**63), "int64", 0),
        (np.float32(1.5), "float32", 0),
        (np.bool_(True), "bool", 0),
        ([1, 2, 3], "uint8", 1),
        ([1, 2.5], "float16", 1),
        ([[1, 2], [3, 4]], "float32", 2),
        (((1, 2), (3, 4)), "int64", 2),
        ([True, False], "bool", 1),
        ([], "float32", 1),
        ([[], []], "int64", 2),
        ([1.5, -2], "bfloat16", 1),
        ([[0.0, -0.0, 448], [2**-9, float("nan"), -240]], "float8_e4m3fn", 2),
        ([], "float8_e4m3fn", 1),
    ],
)
def test_numbers_and_lists_take_the_dtype_that_is_wanted(copies: Copies, value: Any, dtype: str, rank: int) -> None:
    assert_same(copies.of(value, dtype, rank), np.array(value, numpy_dtype(dtype)))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.0, "int32"),
        (1.5, "bool"),
        (2, "bool"),
        (-1, "uint64"),
        (128, "int8"),
        (2**63, "int64"),
        (2**64, "uint64"),
        (float("nan"), "int64"),
        (17, "float8_e4m3fn"),
        (480, "float8_e4m3fn"),
        (465.0, "float8_e4m3fn"),
        (float("-inf"), "float8_e4m3fn"),
        (1j, "float32"),
        ("1", "float32"),
        (None, "bool"),
    ],
)
def test_numbers_that_would_change_are_refused(copies: Copies, value: Any, dtype: str) -> None:
    for rank, wrapped in ((0, value), (1, [value])):
        with pytest.raises(errors.InvalidArgument, match=f"'x': expected {dtype}"):
            copies.of(wrapped, dtype, rank)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", np.array(b"text", object)),
        (b"a\0b", np.array(b"a\0b", object)),
        ("größe", np.array("größe".encode(), object)),
        (["a", b"", "c\0"], np.array([b"a", b"", b"c\0"], object)),
        ([["a", "b"], ["c", "d"]], np.array([[b"a", b"b"], [b"c", b"d"]], object)),
        ([], np.array([], object)),
        (np.array(["ab", "c"]), np.array([b"ab", b"c"], object)),
        (np.array([[b"ab"], [b"c"]]), np.array([[b"ab"], [b"c"]], object)),
        (np.array(["ab", b"c\0"], object), np.array([b"ab", b"c\0"], object)),
        (bytearray(b"xy"), np.array(b"xy", object)),
        (["x" * 100_000], np.array([b"x" * 100_000], object)),
    ],
    ids=range(11),
)
def test_byte_strings_keep_every_byte(copies: Copies, value: Any, expected: Array) -> None:
    seen = copies.of(value, "bytes", expected.ndim)
    assert (seen.shape, seen.tolist()) == (expected.shape, expected.tolist())


class DLManaged(ctypes.Structure):
    """DLManagedTensor of the exchange format's first version, https://dmlc.github.io/dlpack/latest/c_api.html"""


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(DLManaged))
DLManaged._fields_ = [
    ("data", ctypes.c_void_p),
    ("device_type", ctypes.c_int32),
    ("device_id", ctypes.c_int32),
    ("ndim", ctypes.c_int32),
    ("code", ctypes.c_uint8),
    ("bits", ctypes.c_uint8),
    ("lanes", ctypes.c_uint16),
    ("shape", ctypes.POINTER(ctypes.c_int64)),
    ("strides", ctypes.POINTER(ctypes.c_int64)),
    ("byte_offset", ctypes.c_uint64),
    ("manager_ctx", ctypes.c_void_p),
    ("deleter", DELETER),
]
CODES = {"i": 0, "u": 1, "f": 2, "bfloat16": 4, "b": 6, "float8_e4m3fn": 10}


class Exporter:
    """An array that shows itself through DLPack alone, as those of other libraries do."""

    def __init__(self, source: Array, device: int = 1, lanes: int = 1, offset: int = 0) -> None:
        self.source, self.device, self.deleted = source, device, 0
        self._deleter = DELETER(self._delete)
        shape = (ctypes.c_int64 * source.ndim)(*source.shape)
        strides = (ctypes.c_int64 * source.ndim)(*(s // source.itemsize for s in source.strides))
        self._keep = shape, strides
        code = CODES[source.dtype.name if source.dtype.name in CODES else source.dtype.kind]
        self._managed = DLManaged(
            source.ctypes.data - offset, device, 0, source.ndim, code, source.itemsize * 8,
            lanes, shape, strides, offset, None, self._deleter,
        )  # fmt: skip

    def _delete(self, _: Any) -> None:
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)

    def __dlpack__(self, **options: object) -> object:
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(self._managed), b"dltensor", None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", ["in column order", "backwards in steps", "empty rows"])
def test_dlpack_is_read_as_it_is_and_given_back_once(copies: Copies, dtype: str, view: str) -> None:
    given_ = VIEWS[view](sample(dtype, 6, 7))
    exporter = Exporter(given_)
    assert_same(copies.of(exporter, dtype, 2), given_)
    copies.model(dtype, 2).close()
    trtlab._bindings._core._collect()
    assert exporter.deleted == 1


def test_dlpack_with_an_offset_is_read_behind_it(copies: Copies) -> None:
    given_ = sample("float32", 8)[3:]
    assert_same(copies.of(Exporter(given_, offset=8), "float32", 1), given_)


def test_dlpack_of_pinned_host_memory_is_read(copies: Copies) -> None:
    given_ = sample("float32", 8)
    assert_same(copies.of(Exporter(given_, device=3), "float32", 1), given_)


@pytest.mark.parametrize("device", [2, 4, 7, 8, 10, 14])
def test_dlpack_of_another_device_is_refused_unread(copies: Copies, device: int) -> None:
    exporter = Exporter(sample("float32", 8), device=device)
    exporter._managed.data = None
    with pytest.raises(errors.InvalidArgument, match=f"another device .*{device}.*copy it there first"):
        copies.of(exporter, "float32", 1)


def test_dlpack_of_vectors_and_of_the_wrong_dtype_is_refused(copies: Copies) -> None:
    with pytest.raises(errors.InvalidArgument, match="element type"):
        copies.of(Exporter(sample("float32", 8), lanes=4), "float32", 1)
    exporter = Exporter(sample("int32", 8))
    with pytest.raises(errors.InvalidArgument, match=r"expected float32\[\?\], got int32\[8\]"):
        copies.of(exporter, "float32", 1)
    trtlab._bindings._core._collect()
    assert exporter.deleted == 1


def test_an_answer_is_an_input_without_a_copy(copies: Copies) -> None:
    first = copies.model("float32", 1).infer(x=sample("float32", 8)).result(60)["y"]
    assert_same(copies.of(first, "float32", 1), sample("float32", 8))
    with pytest.raises(errors.InvalidArgument, match=r"expected int32\[\?\], got float32\[8\]"):
        copies.of(first, "int32", 1)


def test_a_contiguous_array_is_not_copied_on_its_way_in() -> None:
    seen: list[int] = []
    model = FunctionModel(
        lambda x: seen.append(x.numpy().__array_interface__["data"][0]) or {},
        [TensorSpec("x", "float32", (None,))],
        [],
    )
    with model:
        given_ = sample("float32", 1000)
        model.infer(x=given_).result(60)
    assert seen == [given_.__array_interface__["data"][0]]


def test_a_function_cannot_write_into_what_it_was_lent() -> None:
    def answer(x: trtlab.Tensor) -> dict[str, Array]:
        assert not x.numpy().flags.writeable
        x.numpy()[0] = 7
        return {}

    given_ = sample("float32", 4)
    with (
        FunctionModel(answer, [TensorSpec("x", "float32", (None,))], []) as model,
        pytest.raises(ValueError, match="read-only"),
    ):
        model.infer(x=given_).result(60)
    assert_same(given_, sample("float32", 4))


def test_an_input_is_alive_until_it_is_read_and_no_longer(gated: Callable[..., Any]) -> None:
    class Named(np.ndarray):  # type: ignore[type-arg]
        pass

    one = gated()
    given_ = np.ones((2, 4), np.float32).view(Named)
    alive = weakref.ref(given_)
    future = one.model.infer(x=given_)
    del given_
    gc.collect()
    assert alive() is not None
    one.gate.set()
    np.testing.assert_array_equal(future.result(60)["y"], np.full((2, 4), 2, np.float32))
    one.model.close()
    trtlab._bindings._core._collect()
    assert alive() is None


def test_a_refused_input_is_given_back() -> None:
    given_ = bytearray(b"abc")
    with (
        FunctionModel(print, [TensorSpec("x", "uint8", (None, None))], []) as model,
        pytest.raises(errors.InvalidArgument),
    ):
        model.infer(x=given_)
    trtlab._bindings._core._collect()
    given_.append(1)  # impossible while a buffer of it is out


def test_more_inputs_than_fit_the_fast_path() -> None:
    names = [f"x{i}" for i in range(40)]
    spec = [TensorSpec(name, "int64", ()) for name in names]
    with FunctionModel(
        lambda **x: {"y": [x[n].tolist() for n in names]}, spec, [TensorSpec("y", "int64", (40,))]
    ) as model:
        backwards = {name: i for i, name in reversed(list(enumerate(names)))}
        assert model.infer(backwards).result(60)["y"].tolist() == list(range(40))
        first = dict(list(backwards.items())[:20])
        rest = dict(list(backwards.items())[20:])
        assert model.infer(first, **rest).result(60)["y"].tolist() == list(range(40))
        del backwards["x17"]
        with pytest.raises(errors.InvalidArgument, match="missing input 'x17'"):
            model.infer(backwards)


def test_names_that_are_no_identifiers() -> None:
    spec = [TensorSpec("input:0", "int64", ()), TensorSpec("größe/x y", "int64", ())]
    with FunctionModel(
        lambda **x: {"out:0": [x["input:0"].tolist(), x["größe/x y"].tolist()]},
        spec,
        [TensorSpec("out:0", "int64", (2,))],
    ) as model:
        assert model.infer({"größe/x y": 2, "input:0": 1}).result(60)["out:0"].tolist() == [1, 2]


@st.composite
def views(draw: st.DrawFn) -> Array:
    """Arrays of any dtype, shape and strides: slices, steps, both directions, permuted axes, broadcast."""
    dtype = numpy_dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
    bits = np.frombuffer(draw(st.randoms(use_true_random=False)).randbytes(int(np.prod(shape)) * dtype.itemsize), "u1")
    base = (bits % 2 if dtype.kind == "b" else bits).view(dtype).reshape(shape).copy()
    view: Array = base.transpose(draw(st.permutations(range(base.ndim))))
    if view.ndim:
        view = view[draw(hnp.basic_indices(view.shape, max_dims=0, allow_ellipsis=False))] if view.size else view
        view = np.asarray(view)
    if draw(st.booleans()):
        view = np.broadcast_to(view, (draw(st.integers(0, 3)), *view.shape))
    return view


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(view=views())
def test_any_array_arrives_as_it_is(copies: Copies, view: Array) -> None:
    assert_same(copies.of(view, view.dtype.name, view.ndim), view)
