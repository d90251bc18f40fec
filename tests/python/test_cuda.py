"""trtlab.cuda with no driver, and over the fake CUDA runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trtlab
from trtlab import cuda

PRELUDE = """
import ctypes, gc, os, threading
import numpy as np
import trtlab
from trtlab import cuda, errors

fake = ctypes.CDLL(os.environ["TRTLAB_CUDART_LIBRARY"])
fake.fake_cuda_calls.restype = ctypes.c_uint64
fake.fake_cuda_violations.restype = fake.fake_cuda_step.restype = ctypes.c_size_t


class Live(ctypes.Structure):
    names = ["streams", "events", "graphs", "executables", "device_blocks", "pinned_blocks", "managed_blocks"]
    _fields_ = [(name, ctypes.c_size_t) for name in names + ["device_bytes", "pinned_bytes", "managed_bytes"]]


def live():
    gc.collect()
    now = Live()
    fake.fake_cuda_live(ctypes.byref(now))
    return {name: getattr(now, name) for name in Live.names if getattr(now, name)}


def calls(name):
    return fake.fake_cuda_calls(name.encode())


def fail(name, code, nth=1, sticky=0):
    fake.fake_cuda_fail(name.encode(), nth, code, sticky)


def step(count=1):
    return fake.fake_cuda_step(None, ctypes.c_size_t(count))


def refusal(kind, f, *arguments, **options):
    try:
        f(*arguments, **options)
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was expected")
"""

EPILOGUE = """
assert fake.fake_cuda_violations() == 0
print("done")
"""


@pytest.fixture
def simulated(python: Callable[..., str], fakes: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a program over the fake CUDA runtime, with two devices of 1 MiB."""

    def run(code: str, *, devices: int = 2) -> None:
        monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", str(fakes / "libfake_cudart.so"))
        monkeypatch.setenv("FAKE_CUDA_DEVICES", str(devices))
        monkeypatch.setenv("FAKE_CUDA_MEMORY_BYTES", str(1 << 20))
        assert python(f"{PRELUDE}\n{code}\n{EPILOGUE}") == "done\n"

    return run


def test_importing_trtlab_imports_no_cuda(python: Callable[..., str]) -> None:
    code = """
import pathlib, sys
import trtlab
assert not [name for name in sys.modules if "cuda" in name]
assert "cuda" in dir(trtlab)
assert trtlab.cuda.__name__ == "trtlab.cuda"
assert "libcudart" not in pathlib.Path("/proc/self/maps").read_text()
"""
    assert python(code) == ""


def test_without_a_driver_there_is_no_device_and_it_says_why(simulated: Callable[..., None]) -> None:
    simulated(
        """
assert cuda.device_count() == 0 and cuda.devices() == []
assert "no NVIDIA driver" in cuda.why_no_device()
assert cuda.library().driver_version is None and cuda.library().version >= (13, 0)
makers = [lambda: cuda.allocate(4), lambda: cuda.pinned(4), lambda: cuda.empty(4)]
for make in (cuda.device, cuda.Stream, cuda.Event, *makers):
    text = refusal(errors.NotFound, make)
    assert "cuda:0 does not exist" in text and "no NVIDIA driver" in text, text
""",
        devices=0,
    )


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="no CUDA runtime of PyPI's: trtlab[cuda]")
def test_the_runtime_of_pypi_is_found_without_importing_it(python: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.delenv("TRTLAB_CUDART_LIBRARY", raising=False)
    code = """
import sys
from trtlab import cuda
library = cuda.library()
assert "nvidia" not in sys.modules
assert library is cuda.library()
print(library.path, cuda.device_count() > 0, cuda.why_no_device() == "")
"""
    path, found, silent = python(code).split()
    assert "libcudart.so.1" in path
    assert found == silent


def test_a_library_that_is_not_there_is_told_with_its_name(python: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", "/nowhere/libcudart.so.13")
    code = """
from trtlab import cuda, errors
try:
    cuda.device_count()
except errors.NotFound as error:
    assert isinstance(error, LookupError)
    print("/nowhere/libcudart.so.13" in str(error), "trtlab[cuda]" in str(error))
"""
    assert python(code) == "True True\n"


def test_a_device_tells_what_it_is(simulated: Callable[..., None]) -> None:
    simulated(
        """
first, second = cuda.devices()
assert cuda.device_count() == 2 and cuda.why_no_device() == ""
assert (first.ordinal, second.ordinal) == (0, 1)
assert second.name == "Fake GPU 1"
assert second.uuid == "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe01"
assert second.pci_bus_id == "fa4e:02:00.0"
assert second.compute_capability == (9, 0) and second.multiprocessors == 132
assert second.total_memory_bytes == 1 << 20
assert second.numa_node is None and second.cpus == []
assert (second.memory().free_bytes, second.memory().total_bytes) == (1 << 20, 1 << 20)
load = second.load()
assert load.gpu_percent is load.power_watts is load.power_limit_watts is load.temperature_celsius is None
assert str(second) == "cuda:1" and "Fake GPU 1" in repr(second)
second.synchronize()
"""
    )


def test_a_device_is_found_by_number_and_by_uuid(simulated: Callable[..., None]) -> None:
    simulated(
        """
assert cuda.device().ordinal == 0 and cuda.device("cuda").ordinal == 0 and cuda.device("cuda:1").ordinal == 1
second = cuda.device("cuda:GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe01")
assert second.ordinal == 1 and cuda.device(second) is second
assert "cuda:0 to cuda:1" in refusal(errors.NotFound, cuda.device, "cuda:2")
assert "'GPU-0'" in refusal(errors.NotFound, cuda.device, "cuda:GPU-0")
for name in ("cpu", "", "cuda:", "cuda:x", "cuda:-1"):
    assert f"'{name}'" in refusal(errors.InvalidArgument, cuda.device, name)
assert "got 1" in refusal(errors.InvalidArgument, cuda.device, 1)
"""
    )


def test_memory_is_allocated_of_every_kind_and_given_back(simulated: Callable[..., None]) -> None:
    simulated(
        """
device = cuda.allocate(1000, "cuda:1")
pinned = cuda.allocate(1000, kind="pinned")
managed = cuda.allocate(1000, kind="managed")
assert [b.location for b in (device, pinned, managed)] == ["cuda:1", "cuda_host", "cuda_managed:0"]
assert [b.device.ordinal for b in (device, pinned, managed)] == [1, 0, 0]
assert device.size_bytes == 1000 and device.address % 256 == 0
assert live() == {"device_blocks": 1, "pinned_blocks": 1, "managed_blocks": 1}
memoryview(pinned)[:5] = b"hello"
memoryview(managed)[:5] = b"world"
assert bytes(memoryview(pinned)[:5]) == b"hello" and memoryview(pinned).shape == (1000,)
assert "the host cannot read" in refusal(BufferError, memoryview, device)
view = memoryview(pinned)
del device, pinned, managed
assert live() == {"pinned_blocks": 1}  # the view keeps it
del view
assert live() == {}
"""
    )


def test_a_slice_shares_the_block_and_may_not_reach_over_the_end(simulated: Callable[..., None]) -> None:
    simulated(
        """
buffer = cuda.allocate(100, kind="pinned")
part = buffer.slice(40, 20)
assert part.address == buffer.address + 40 and part.size_bytes == 20
memoryview(part)[:] = b"x" * 20
assert bytes(memoryview(buffer)[40:60]) == b"x" * 20
for offset, size in ((90, 11), (101, 0), (0, 2**63)):
    assert "100 bytes" in refusal(errors.InvalidArgument, buffer.slice, offset, size)
del buffer
assert live() == {"pinned_blocks": 1}
del part
assert live() == {}
"""
    )


def test_out_of_memory_says_how_much_of_what(simulated: Callable[..., None]) -> None:
    simulated(
        """
text = refusal(errors.OutOfMemory, cuda.allocate, 2 << 20, "cuda:1")
assert "device memory of cuda:1" in text and str(2 << 20) in text and f"{1 << 20} of {1 << 20} bytes" in text, text
refusal(MemoryError, cuda.empty, (1 << 30, 4), "float32")
refusal(errors.OutOfMemory, cuda.pinned, 2 << 20, "int8")
assert live() == {}
"""
    )


@pytest.mark.parametrize(
    ("call", "word"),
    [
        ("cuda.allocate(-1)", "size_bytes"),
        ("cuda.allocate('4')", "size_bytes"),
        ("cuda.allocate(True)", "size_bytes"),
        ("cuda.allocate(1 << 64)", "size_bytes"),
        ("cuda.allocate(4, kind='rented')", "'rented'"),
        ("cuda.empty((2, -1))", "(2, -1)"),
        ("cuda.empty((1,) * 9)", "up to 8"),
        ("cuda.empty('abc')", "'abc'"),
        ("cuda.empty((1 << 40, 1 << 40))", "any memory"),
        ("cuda.empty(4, 'complex64')", "complex64"),
        ("cuda.empty(4, 'bytes')", "S"),
        ("cuda.empty(4, 'nonsense')", "'nonsense'"),
        ("cuda.empty(4, object)", "object"),
        ("cuda.empty(4, '>f4')", ">f4"),
        ("cuda.pinned(4, 'nonsense')", "'nonsense'"),
        ("cuda.Stream(priority=1.5)", "1.5"),
        ("cuda.Event(kind='round')", "'round'"),
        ("cuda.copy(cuda.empty(4), np.zeros(4, 'float32'), 5)", "trtlab.cuda.Stream"),
        ("cuda.copy(cuda.empty(4), np.zeros(5, 'float32'))", "float32[4]"),
        ("cuda.copy(cuda.empty(4), np.zeros(4, 'int32'))", "int32[4]"),
        ("cuda.copy(cuda.empty(4), [1, 2, 3, 4])", "list"),
        ("cuda.copy(cuda.empty(4), None)", "NoneType"),
        ("cuda.copy(cuda.empty(4), cuda.empty(5))", "sizes differ"),
        ("cuda.copy(cuda.allocate(16), b'short')", "sizes differ"),
        ("cuda.copy(b'not writable....', cuda.allocate(16))", "writable"),
        ("cuda.copy(np.zeros((4, 4), 'f4').T, cuda.empty((4, 4)))", "strides"),
        ("cuda.empty(4).__dlpack__(stream=0)", "stream"),
        ("cuda.Array(cuda.allocate(15), 'float32', (4,))", "15"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(simulated: Callable[..., None], call: str, word: str) -> None:
    simulated(
        f"text = refusal(errors.InvalidArgument, lambda: {call})\nassert {word!r} in text, text\nassert live() == {{}}"
    )


def test_pinned_arrays_are_numpy_arrays_that_keep_their_memory(simulated: Callable[..., None]) -> None:
    simulated(
        """
array = cuda.pinned((3, 4), "float32", "cuda:1")
assert array.shape == (3, 4) and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
array[:] = 7
row = array[1]
del array
assert live() == {"pinned_blocks": 1}
assert (row == 7).all()
del row
assert live() == {}
assert cuda.pinned((), np.int64).shape == () and cuda.pinned((0, 4)).size == 0
assert cuda.pinned(4, "bfloat16").dtype.name == "bfloat16"
"""
    )


def test_a_pinned_array_is_told_from_others_by_cuda(simulated: Callable[..., None]) -> None:
    simulated(
        """
stream, array = cuda.Stream(), cuda.empty(4, "float32")
pinned, pageable = cuda.pinned(4, "float32"), np.ones(4, "float32")
pinned[:] = [1, 2, 3, 4]
fake.fake_cuda_hold()
cuda.copy(array, pinned, stream)
pinned[:] = 5  # read when the copy runs, and that is later
assert not stream.done
assert step() == 1
step()
assert stream.done
fake.fake_cuda_release()
assert array.copy_to_host().tolist() == [5, 5, 5, 5]
cuda.copy(array, pageable, stream)
pageable[:] = 9  # was read before the call returned
stream.synchronize()
assert array.copy_to_host().tolist() == [1, 1, 1, 1]
"""
    )


def test_arrays_go_to_a_gpu_and_back(simulated: Callable[..., None]) -> None:
    simulated(
        """
for dtype in ("bool", "int8", "uint16", "int64", "float16", "float32", "float64", "bfloat16", "float8_e4m3fn"):
    host = cuda.pinned((2, 3), dtype)
    host[:] = np.arange(6).reshape(2, 3)
    array = cuda.empty((2, 3), dtype, "cuda:1")
    assert (array.shape, array.dtype, array.device, array.nbytes) == ((2, 3), dtype, "cuda:1", host.nbytes)
    array.copy_from(host)
    back = array.copy_to_host()
    assert back.dtype == host.dtype and (back == host).all(), dtype
    array.copy_from(np.asfortranarray(host))  # dense in another order: made row-major first
    assert (array.copy_to_host() == host).all()
assert repr(array) == "trtlab.cuda.Array(float8_e4m3fn[2, 3] on cuda:1)"
scalar, nothing = cuda.empty((), "int32"), cuda.empty((0, 3))
scalar.copy_from(np.array(5, "int32"))
assert scalar.copy_to_host() == 5
nothing.copy_from(np.zeros((0, 3), "float32"))
assert nothing.copy_to_host().shape == (0, 3)
"""
    )


def test_copies_go_between_all_kinds_of_memory(simulated: Callable[..., None]) -> None:
    simulated(
        """
one, two, host = cuda.empty(4), cuda.allocate(16, "cuda:1"), np.zeros(4, "float32")
cuda.copy(one, np.arange(4, dtype="float32"))
cuda.copy(two, one)
cuda.copy(host, two)
assert host.tolist() == [0, 1, 2, 3]
cuda.copy(two.slice(0, 8), host[2:])
cuda.copy(one, two)
assert one.copy_to_host().tolist() == [2, 3, 2, 3]
raw = bytearray(16)
cuda.copy(raw, one)
assert np.frombuffer(raw, "float32").tolist() == [2, 3, 2, 3]
cuda.copy(two, bytes(range(16)))
cuda.copy(memoryview(raw), two)
assert raw == bytes(range(16))
stream = cuda.Stream("cuda:1")
cuda.copy(one, two, stream)
cuda.copy(host, one, stream)
stream.synchronize()
assert host.tobytes() == bytes(range(16))
"""
    )


def test_gpu_arrays_of_others_are_copied_after_their_stream(simulated: Callable[..., None]) -> None:
    simulated(
        """
class Other:
    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}

one, stream, mine = cuda.empty((2, 2)), cuda.Stream(), cuda.Stream()
one.copy_from(np.ones((2, 2), "float32"))
theirs = Other(cuda.empty((2, 2)), stream=stream.handle)
before = calls("cudaStreamSynchronize")
cuda.copy(theirs, one)
assert calls("cudaStreamSynchronize") == before + 2  # the other's, and the copy's own
before = calls("cudaStreamWaitEvent")
cuda.copy(one, theirs, mine)
assert calls("cudaStreamWaitEvent") == before + 1
mine.synchronize()
assert one.copy_to_host().tolist() == [[1, 1], [1, 1]]
cuda.copy(one, Other(theirs.array, strides=(8, 4)))
broken = [{"data": 5}, {"data": (-1, False)}, {"shape": None}, {"shape": (2.5, 2)}, {"typestr": "x"}, {"stream": 0}]
unusable = [{"strides": (4, 8)}, {"strides": (8,)}, {"data": (np.ones(4, "float32").ctypes.data, False)}]
for changes in broken + unusable:
    refusal(errors.InvalidArgument, cuda.copy, one, Other(theirs.array, **changes))
address = theirs.array.buffer.address
assert "read-only" in refusal(errors.InvalidArgument, cuda.copy, Other(theirs.array, data=(address, True)), one)
"""
    )


def test_what_a_copy_uses_is_kept_until_it_is_done(simulated: Callable[..., None]) -> None:
    simulated(
        """
stream, array = cuda.Stream(), cuda.empty(4)
fake.fake_cuda_hold()
cuda.copy(array, cuda.pinned(4), stream)
del array
assert live() == {"streams": 1, "events": 1, "device_blocks": 1, "pinned_blocks": 1}
step(10)
assert stream.done
assert live() == {"streams": 1}
cuda.copy(cuda.empty(4), cuda.pinned(4), stream)
released = threading.Timer(0, fake.fake_cuda_release)
released.start()
del stream  # waits, without the GIL, so that the other thread can run
released.join()
assert live() == {}
"""
    )


def test_an_array_tells_who_takes_it_of_the_copy_under_way(simulated: Callable[..., None]) -> None:
    simulated(
        """
stream, consumer, array = cuda.Stream(), cuda.Stream(), cuda.empty(4, "float32")
interface = array.__cuda_array_interface__
assert interface["version"] == 3 and interface["shape"] == (4,) and interface["typestr"] == "<f4"
assert interface["data"] == (array.buffer.address, False) and interface["stream"] is None
assert array.__dlpack_device__() == (2, 0)
fake.fake_cuda_hold()
cuda.copy(array, cuda.pinned(4), stream)
assert array.__cuda_array_interface__["stream"] == stream.handle
before = calls("cudaStreamWaitEvent")
array.__dlpack__(stream=-1)
assert calls("cudaStreamWaitEvent") == before
capsule = array.__dlpack__(stream=consumer.handle)
assert "dltensor" in repr(capsule)
assert not consumer.done, "the consumer's stream waits"
array.__dlpack__()  # the default stream
assert calls("cudaStreamWaitEvent") == before + 2
fake.fake_cuda_release()
assert consumer.done
host = np.from_dlpack(array, device="cpu")
assert array.__cuda_array_interface__["stream"] is None
del array, capsule
assert host.shape == (4,)
"""
    )


def test_dlpack_keeps_the_memory_until_its_consumer_is_done(simulated: Callable[..., None]) -> None:
    simulated(
        """
array = cuda.empty(4)
capsule = array.__dlpack__(max_version=(1, 0))
del array
assert live() == {"device_blocks": 1}
del capsule
assert live() == {}
"""
    )


def test_streams_and_events_order_work(simulated: Callable[..., None]) -> None:
    simulated(
        """
first, second = cuda.Stream("cuda:1", priority=-1), cuda.Stream("cuda:1")
event = cuda.Event("cuda:1")
assert first.device.ordinal == 1 and first.handle != second.handle and event.done
assert first.__cuda_stream__() == (0, first.handle)
fake.fake_cuda_hold()
event.record(first)
second.wait(event)
assert not event.done and not second.done
waited = threading.Thread(target=lambda: (event.synchronize(), second.synchronize()))
waited.start()
fake.fake_cuda_release()
waited.join()
assert event.done and first.done and second.done
begin, end = cuda.Event("cuda:1", "timing"), cuda.Event("cuda:1", "timing")
begin.record(first)
fake.fake_cuda_advance(ctypes.c_int64(2_000_000))
end.record(first)
assert abs(end.elapsed_since(begin) - 0.002001) < 1e-6
refusal(errors.CudaError, end.elapsed_since, event)
del first, second, event, begin, end
assert live() == {}
"""
    )


def test_synchronize_releases_the_gil(simulated: Callable[..., None]) -> None:
    simulated(
        """
for wait in ("stream.synchronize()", "event.synchronize()", "stream.device.synchronize()"):
    stream, event = cuda.Stream(), cuda.Event(kind="blocking")
    fake.fake_cuda_hold()
    event.record(stream)
    inside = threading.Event()
    helper = threading.Thread(target=lambda: (inside.wait(), fake.fake_cuda_release()))
    helper.start()
    inside.set()
    exec(wait)  # would never end if the helper could not run
    helper.join()
"""
    )


def test_errors_of_cuda_are_typed_and_tell_of_a_lost_device(simulated: Callable[..., None]) -> None:
    simulated(
        """
fail("cudaStreamCreateWithPriority", 46)
try:
    cuda.Stream("cuda:1")
    raise AssertionError("no error")
except errors.CudaError as error:
    assert isinstance(error, RuntimeError) and isinstance(error, errors.Error)
    assert "cudaStreamCreateWithPriority on cuda:1" in str(error), error
    assert error.code == 46 and not error.device_lost
stream = cuda.Stream()
fail("execute", 719, sticky=1)
pinned, array = cuda.pinned(4), cuda.empty(4)
cuda_error = None
try:
    cuda.copy(array, pinned, stream)
    stream.synchronize()
except errors.CudaError as error:
    cuda_error = error
assert cuda_error.code == 719 and cuda_error.device_lost
trtlab_log = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the destructors meet is logged
del stream, pinned, array, cuda_error
gc.collect()
os.dup2(trtlab_log, 2)
"""
    )


def test_objects_made_without_their_initializer_are_refused(simulated: Callable[..., None]) -> None:
    simulated(
        """
import warnings
warnings.simplefilter("ignore")
class Forgetful(cuda.Stream):
    def __init__(self):
        pass
refusal(TypeError, lambda: Forgetful().synchronize())
refusal(TypeError, lambda: cuda.Stream.__new__(cuda.Stream).synchronize())
refusal(TypeError, cuda.Buffer)
"""
    )


def test_a_forked_child_may_use_cuda_that_its_parent_has_not(simulated: Callable[..., None]) -> None:
    simulated(
        """
library = cuda.library()
child = os.fork()
if child == 0:
    ok = cuda.library() is not library and cuda.device_count() == 2
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    )


def test_the_process_may_end_with_everything_alive(python: Callable[..., str], simulated: Callable[..., None]) -> None:
    simulated(
        """
import sys
sys.keep = [cuda.Stream(), cuda.Event(), cuda.empty(4), cuda.pinned(4), cuda.allocate(4, kind="managed")]
fake.fake_cuda_hold()
sys.keep[1].record(sys.keep[0])
fake.fake_cuda_release()
"""
    )


def test_the_module_is_reached_from_the_package() -> None:
    assert trtlab.cuda is cuda
