"""trtlab.memory: resources that stand on each other, and what numpy and DLPack see of their blocks."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from hypothesis import given
from hypothesis import strategies as st
from trtlab import errors, memory

from .test_cuda import simulated  # noqa: F401


@pytest.fixture
def counted() -> memory.TrackedMemory:
    return memory.TrackedMemory(memory.HostMemory(), "the test", "scratch")


def blocks(resource: memory.TrackedMemory) -> int:
    gc.collect()
    return int(resource.snapshot()["blocks"])


def test_bytes_are_seen_by_memoryview_numpy_and_dlpack_without_a_copy(counted: memory.TrackedMemory) -> None:
    buffer = memory.allocate(counted, 1000)
    assert (buffer.size_bytes, buffer.location, buffer.dtype, buffer.shape) == (1000, "cpu", "uint8", (1000,))
    assert buffer.address % 256 == 0
    memoryview(buffer)[:5] = b"hello"
    array = buffer.numpy()
    assert array.ctypes.data == buffer.address
    assert bytes(array[:5]) == b"hello"
    array[0] = ord("j")
    assert bytes(np.from_dlpack(buffer)[:5]) == b"jello"
    assert np.asarray(buffer).ctypes.data == buffer.address
    assert buffer.__dlpack_device__() == (1, 0)
    with pytest.raises(AttributeError):
        _ = buffer.__cuda_array_interface__


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", np.float64, np.dtype("int32")])
def test_arrays_have_the_dtype_and_the_shape_that_were_asked_for(counted: memory.TrackedMemory, dtype: Any) -> None:
    buffer = memory.allocate(counted, (3, 4, 5), dtype, alignment=4096)
    assert buffer.shape == (3, 4, 5)
    assert buffer.dtype == np.dtype(dtype).name
    assert buffer.address % 4096 == 0
    array = buffer.numpy()
    assert (array.shape, array.dtype, array.flags.writeable) == ((3, 4, 5), np.dtype(dtype), True)
    array[:] = 1
    assert np.all(np.from_dlpack(buffer) == 1)
    assert memoryview(buffer).shape == (3, 4, 5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_what_numpy_lacks_is_shared_through_its_bits(counted: memory.TrackedMemory, dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    buffer = memory.allocate(counted, (2, 3), dtype)
    array = buffer.numpy()
    array[:] = 1.5
    assert array.ctypes.data == buffer.address
    assert buffer.numpy().astype(float).tolist() == [[1.5] * 3] * 2
    with pytest.raises(BufferError, match=dtype):
        memoryview(buffer)


def test_a_view_keeps_the_memory_after_the_block_was_left(counted: memory.TrackedMemory) -> None:
    with memory.allocate(counted, (100,), "int32") as scratch:
        array = scratch.numpy()
        array[:] = 7
    assert scratch.released
    assert blocks(counted) == 1
    assert array.sum() == 700
    del array
    assert blocks(counted) == 0


@pytest.mark.parametrize("view", [memoryview, np.asarray, np.from_dlpack, lambda b: b.tensor("uint8", (4,)), id])
def test_every_kind_of_view_has_its_own_share(counted: memory.TrackedMemory, view: Callable[[Any], Any]) -> None:
    buffer = memory.allocate(counted, 4)
    seen = view(buffer)
    buffer.release()
    buffer.release()
    assert blocks(counted) == (0 if view is id else 1)
    del seen
    assert blocks(counted) == 0


def test_scratch_is_given_back_at_the_end_of_the_block_also_by_an_exception(counted: memory.TrackedMemory) -> None:
    def fail() -> None:
        with memory.allocate(counted, 10) as scratch:
            assert blocks(counted) == 1
            scratch.numpy()[:] = 1
            raise KeyError("on the way")

    with pytest.raises(KeyError):
        fail()
    assert blocks(counted) == 0


def test_a_released_buffer_is_closed(counted: memory.TrackedMemory) -> None:
    buffer = memory.allocate(counted, 10)
    part = buffer.slice(2, 3)
    buffer.release()
    for use in (
        buffer.numpy,
        lambda: buffer.address,
        lambda: buffer.shape,
        lambda: buffer.slice(0, 1),
        lambda: buffer.tensor("uint8", (1,)),
        buffer.__dlpack__,
    ):
        with pytest.raises(errors.Closed, match="released"):
            use()
    with pytest.raises(BufferError, match="released"):
        memoryview(buffer)
    assert "released" in repr(buffer)
    part.numpy()[:] = 1  # it has a share of its own
    assert part.size_bytes == 3


def test_slices_and_tensors_stay_inside(counted: memory.TrackedMemory) -> None:
    buffer = memory.allocate(counted, 100)
    assert buffer.slice(40, 60).address == buffer.address + 40
    assert buffer.tensor("float32", (5, 5)).shape == (5, 5)
    for offset, size in ((90, 11), (101, 0), (0, 2**63)):
        with pytest.raises(errors.InvalidArgument, match="100 bytes"):
            buffer.slice(offset, size)
    for dtype, shape in (("float32", (26,)), ("int64", (2**62,)), ("uint8", (-1,)), ("bytes", (1,)), ("int5", (1,))):
        with pytest.raises(errors.InvalidArgument):
            buffer.tensor(dtype, shape)


@given(
    shape=st.lists(st.integers(-2, 2**62) | st.integers(0, 4), max_size=9), dtype=st.sampled_from(["uint8", "int64"])
)
def test_any_shape_gives_its_bytes_or_is_refused(shape: list[int], dtype: str) -> None:
    resource = memory.LimitedMemory(memory.HostMemory(), size_bytes=1 << 20)
    size = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        buffer = memory.allocate(resource, shape, dtype)
    except errors.InvalidArgument:
        assert len(shape) > 8 or min(shape) < 0 or math.prod(max(extent, 1) for extent in shape) >= 2**60
    except errors.OutOfMemory:
        assert size > 1 << 20
    else:
        assert buffer.size_bytes == size
        assert buffer.numpy().shape == tuple(shape)
        assert resource.in_use()["blocks"] == 1
        buffer.release()
    assert resource.in_use() == {"size_bytes": 0, "blocks": 0}


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda m: memory.allocate(3, 4), "int"),
        (lambda m: memory.allocate(m, -1), "-1"),
        (lambda m: memory.allocate(m, "abc"), "'abc'"),
        (lambda m: memory.allocate(m, 4, "nonsense"), "'nonsense'"),
        (lambda m: memory.allocate(m, 4, "bytes"), "dtype"),
        (lambda m: memory.allocate(m, 4, object), "object"),
        (lambda m: memory.allocate(m, 4, alignment=0), "alignment"),
        (lambda m: memory.allocate(m, 4, alignment=96), "power of two"),
        (lambda m: memory.allocate(m, 4, alignment=1.0), "alignment"),
        (lambda m: memory.LimitedMemory(m, -1), "size_bytes"),
        (lambda m: memory.LimitedMemory(m, blocks="many"), "blocks"),
        (lambda m: memory.LimitedMemory(m, 2**64), "2\\*\\*63"),
        (lambda m: memory.HostMemory("gigantic"), "'gigantic'"),
        (lambda m: memory.HostMemory(node=-5), "node"),
        (lambda m: memory.HostMemory(node=1023), "node"),
        (lambda m: memory.page_placement(3), "int"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(
    counted: memory.TrackedMemory, call: Callable[[Any], Any], word: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=word):
        call(counted)
    assert blocks(counted) == 0


def test_a_limit_says_cap_use_and_request() -> None:
    resource = memory.LimitedMemory(memory.HostMemory(), size_bytes=1000, blocks=2)
    first = memory.allocate(resource, 700)
    with pytest.raises(errors.OutOfMemory, match=r"301 bytes.*700 are in use.*1000 is the cap") as raised:
        memory.allocate(resource, 301)
    assert isinstance(raised.value, MemoryError)
    second = memory.allocate(resource, 0)
    with pytest.raises(errors.OutOfMemory, match="2 blocks are in use"):
        memory.allocate(resource, 0)
    assert resource.in_use() == {"size_bytes": 701, "blocks": 2}
    first.release()
    second.release()
    assert resource.in_use() == {"size_bytes": 0, "blocks": 0}


def test_a_tracked_resource_tells_what_was_taken(counted: memory.TrackedMemory) -> None:
    first, second = memory.allocate(counted, 1000), memory.allocate(counted, 24)
    first.release()
    with pytest.raises(errors.OutOfMemory):
        memory.allocate(counted, 2**59)
    now = counted.snapshot()
    assert now == {
        "size_bytes": 24,
        "peak_bytes": 1024,
        "blocks": 1,
        "allocations": 2,
        "deallocations": 1,
        "failures": 1,
        "by_size": {16: 1, 512: 1},
    }
    assert counted.memory_use() == trtlab.MemoryUse("the test", "scratch", "cpu", 24)
    assert (counted.name, counted.device, repr(counted)) == (
        "host memory",
        "cpu",
        "<trtlab TrackedMemory of host memory>",
    )
    del second


def test_debug_memory_fills_what_is_fresh_and_finds_a_write_behind_the_end() -> None:
    resource = memory.DebugMemory(memory.HostMemory())
    buffer = memory.allocate(resource, 100)
    assert set(buffer.numpy()) == {0xCD}
    assert (resource.live_blocks, resource.check(), resource.reports()) == (1, 0, [])
    import ctypes

    beyond = ctypes.c_ubyte.from_address(buffer.address + 104)
    beyond.value = 1
    assert resource.check() == 1
    buffer.release()
    assert resource.live_blocks == 0
    assert len(resource.reports()) == 2
    assert all("4 bytes after its end" in report for report in resource.reports())


def test_a_buffer_keeps_its_resource_and_all_below() -> None:
    below = memory.TrackedMemory(memory.HostMemory())
    resource = memory.LimitedMemory(memory.DebugMemory(below))
    gone = weakref.ref(resource)
    buffer = memory.allocate(resource, 10)
    del resource
    gc.collect()
    assert gone() is None  # the Python object; the resource itself lives on
    assert blocks(below) == 1
    buffer.numpy()[:] = 1
    buffer.release()
    assert blocks(below) == 0


def test_buffers_may_be_dropped_by_other_threads(counted: memory.TrackedMemory) -> None:
    def churn() -> None:
        for i in range(300):
            memory.allocate(counted, i).numpy()[:] = 1

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blocks(counted) == 0
    assert counted.snapshot()["allocations"] == 1200


def test_pages_are_where_the_kernel_says() -> None:
    resource = memory.HostMemory(touch=True)
    buffer = memory.allocate(resource, 100_000)
    placement = memory.page_placement(buffer)
    assert placement["absent_bytes"] == 0
    assert sum(placement["bytes_of_node"].values()) == 100_000
    assert memory.page_placement(np.ones(1000))["absent_bytes"] == 0
    assert memory.huge_page_bytes(buffer) <= 100_000


def test_what_the_system_lacks_is_left_out_where_failure_is_soft() -> None:
    resource = memory.HostMemory(node=1023, strict=False)
    assert "node 1023" in resource.left_out
    memory.allocate(resource, 10).numpy()[:] = 1


def test_memory_of_a_node_says_so() -> None:
    if not Path("/sys/devices/system/node/node0").exists():
        pytest.skip("no NUMA nodes are known here")
    try:
        resource = memory.HostMemory("transparent_huge", node=0)
    except errors.InvalidArgument as error:
        pytest.skip(str(error))
    assert "node 0" in resource.name
    assert memory.page_placement(memory.allocate(resource, 1 << 21)) == {
        "bytes_of_node": {0: 1 << 21},
        "absent_bytes": 0,
    }


def test_nothing_is_left_of_what_was_allocated() -> None:
    from trtlab._bindings import _core

    gc.collect()
    before = _core._live_objects()
    for _ in range(10):
        buffer = memory.allocate(memory.HostMemory(), (10, 10), "float32")
        array, view, tensor = buffer.numpy(), memoryview(buffer), buffer.tensor("int8", (3,))
        del buffer, array, view, tensor
    gc.collect()
    assert _core._live_objects() == before


def test_a_model_takes_a_buffer_without_a_copy(counted: memory.TrackedMemory) -> None:
    spec = [trtlab.TensorSpec("x", "float32", (None,))]
    with trtlab.FunctionModel(
        lambda x: {"y": 2 * np.asarray(x)}, spec, [trtlab.TensorSpec("y", "float32", (None,))]
    ) as m:
        with memory.allocate(counted, (4,), "float32") as scratch:
            scratch.numpy()[:] = 3
            answer = m.infer(x=scratch).result(timeout=60)["y"]
        assert answer.tolist() == [6, 6, 6, 6]


def test_memory_of_a_gpu_is_a_resource_too(simulated: Callable[..., None]) -> None:  # noqa: F811
    simulated(
        """
from trtlab import memory
resource = memory.TrackedMemory(memory.LimitedMemory(cuda.Memory("cuda:1"), size_bytes=4096))
assert (resource.device, resource.name) == ("cuda:1", "device memory of cuda:1")
buffer = memory.allocate(resource, (4,), "float32")
assert buffer.location == "cuda:1" and buffer.__dlpack_device__() == (2, 1)
assert buffer.__cuda_array_interface__["data"] == (buffer.address, False)
assert "the host cannot read" in refusal(BufferError, memoryview, buffer)
assert "the host cannot read" in refusal(errors.InvalidArgument, buffer.numpy)
cuda.copy(buffer, np.arange(4, dtype="float32"))
back = np.zeros(4, "float32")
cuda.copy(back, buffer)
assert back.tolist() == [0, 1, 2, 3]
stream = cuda.Stream("cuda:1")
pinned = memory.allocate(cuda.Memory(kind="pinned"), (4,), "float32")
assert pinned.location == "cuda_host"
cuda.copy(pinned, buffer, stream)
buffer.release()
step(10)
stream.synchronize()
assert pinned.numpy().tolist() == [0, 1, 2, 3]
assert resource.snapshot()["blocks"] == 0
refusal(errors.OutOfMemory, memory.allocate, resource, 4097)
assert "'rented'" in refusal(errors.InvalidArgument, cuda.Memory, "cuda:0", "rented")
released = memory.allocate(resource, 8)
released.release()
refusal(errors.Closed, cuda.copy, released, b"12345678")
debug = memory.DebugMemory(cuda.Memory())
with memory.allocate(debug, 16) as scratch:
    assert debug.check() == 0 and debug.live_blocks == 1
assert debug.reports() == []
whole = cuda.allocate(100, kind="pinned")
assert isinstance(whole, memory.Buffer) and isinstance(whole.slice(1, 2), cuda.Buffer)
del whole, stream, pinned, buffer, released, debug, scratch
assert live() == {}
"""
    )
