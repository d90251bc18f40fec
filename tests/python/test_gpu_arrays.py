"""GPU arrays in and out of a model that reads them, over the fake CUDA runtime, whose memory tests can look into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PRELUDE = '''
import gc, sys, threading
import numpy as np
import trtlab
from trtlab import errors
from trtlab._bindings import _core

sys.path.insert(0, {folder!r})
from fake_gpu import *

PLAN = b"""trtlab fake plan 1
name twice
input x float32 -1x4
output y float32 -1x4 = double x
profile x 0x4 3x4 8x4
weights 64
activation 64
end
"""
manager = trtlab.InferenceManager(max_executions=2)


def model(outputs="host"):
    # Without graphs inputs are read where they are, so that copies tell of everything else.
    return manager.load("twice", PLAN, device="cuda:0", outputs=outputs, graphs=False)


def answer(model, x):
    return model.infer(x=x).result(60)["y"]


def refusal(model, x):
    try:
        model.infer(x=x)
    except errors.InvalidArgument as error:
        return str(error)
    raise AssertionError("taken")


def same(seen, expected):
    seen = seen.to_host().numpy()
    assert seen.shape == expected.shape and (seen == expected).all(), seen


def settle():
    gc.collect()
    _core._collect()
'''


@pytest.fixture
def on_gpu(python: Callable[..., str], fakes: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a program where the fake CUDA runtime has two devices; ``model()`` of it answers 2 * x, x float32[?, 4]."""
    monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", str(fakes / "libfake_cudart.so"))
    monkeypatch.setenv("TRTLAB_TENSORRT_LIBRARY", str(fakes / "fake" / "nvinfer" / "libfake_nvinfer.so"))
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")

    def run(code: str) -> None:
        prelude = PRELUDE.format(folder=str(Path(__file__).parent))
        assert python(f"{prelude}\n{code}\nassert fake.fake_cuda_violations() == 0\nprint('done')") == "done\n"

    return run


def test_dlpack_is_read_in_place_behind_a_stream_that_its_exporter_was_told(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice, x = model(), GpuArray(rows())
before = copied_to_gpu()
same(answer(twice, x), 2 * rows())
assert copied_to_gpu() == before
(options,) = x.options
assert list(options) == ["stream"] and options["stream"] > 2, options
settle()
assert x.deleted == 1
assert "used_dltensor" in repr(x.capsules[0])
"""
    )


@pytest.mark.parametrize("version", [None, (1, 0), (1, 9)])
def test_every_capsule_is_given_back_once(on_gpu: Callable[[str], None], version: tuple[int, int] | None) -> None:
    on_gpu(
        f"""
twice, x = model(), GpuArray(rows(), version={version})
for count in range(1, 4):
    same(answer(twice, x), 2 * rows())
    settle()
    assert x.deleted == count == len(x.capsules)
assert all(repr(capsule).startswith("<capsule object \\"used_dltensor") for capsule in x.capsules)
"""
    )


@pytest.mark.parametrize(
    ("x", "stream"),
    [
        ("GpuArray(rows(), stream=stream)", "Stream()"),
        ("GpuArray(rows(), stream=stream, kind=MANAGED)", "Stream()"),
        ("CudaArray(rows(), stream=stream.handle.value)", "Stream()"),
        ("CudaArray(rows(), stream=1)", "Stream(1)"),
        ("CudaArray(rows(), stream=2)", "Stream(2)"),
        ("CudaArray(rows(), version=2)", "Stream(1)"),
    ],
    ids=range(6),
)
def test_memory_that_is_late_is_waited_for_on_the_gpu(on_gpu: Callable[[str], None], x: str, stream: str) -> None:
    on_gpu(
        f"""
twice, stream = model(), {stream}
x = {x}
same(answer(twice, x), 2 * rows())
late = LateWrite(stream, x.address, rows(100))
y = twice.infer(x=x)
other = twice.infer(x=rows(7))
while not other.done():
    assert late.run_all_else() > 0
same(other.result(60)["y"], 2 * rows(7))
assert not y.done()
late.finish()
same(y.result(60)["y"], 2 * rows(100))
"""
    )


def test_an_array_that_names_no_stream_is_ready(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice, x = model(), CudaArray(rows())
same(answer(twice, x), 2 * rows())
before = calls("cudaEventRecord")
y = answer(twice, x)
without = calls("cudaEventRecord") - before
same(y, 2 * rows())
x.__cuda_array_interface__["stream"] = 1
before = calls("cudaEventRecord")
y = answer(twice, x)
assert calls("cudaEventRecord") - before == without + 1
"""
    )


def test_imports_use_their_events_again(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice, x = model(), GpuArray(rows())
for _ in range(20):
    answer(twice, x)
before = calls("cudaEventCreateWithFlags"), calls("cudaStreamCreateWithPriority")
for _ in range(100):
    answer(twice, x)
assert (calls("cudaEventCreateWithFlags"), calls("cudaStreamCreateWithPriority")) == before
settle()
assert x.deleted == 120
"""
    )


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        ("GpuArray(rows(), index=1)", "another device (cuda:1): this model reads host memory or cuda:0"),
        ("GpuArray(rows(), kind=MANAGED, index=1)", "another device (cuda_managed:1): this model reads host memory"),
        ("GpuArray(rows(), told=(4, 0))", "another device (DLPack device type 4): this model reads host memory or"),
        ("CudaArray(rows(), copied_to(CUDA, rows(), 1))", "another device (cuda:1): this model reads host memory or"),
        ("CudaArray(rows(), rows().ctypes.data)", "(an address that CUDA does not know)"),
    ],
    ids=range(5),
)
def test_memory_of_another_device_is_refused_unread(on_gpu: Callable[[str], None], x: str, problem: str) -> None:
    on_gpu(
        f"""
x = {x}
message = refusal(model(), x)
assert {problem!r} in message and "copy it there first" in message, message
assert not getattr(x, "capsules", [])
"""
    )


@pytest.mark.parametrize(
    ("x", "problem", "deleted"),
    [
        ("GpuArray(rows(), told=(2, 0), index=1)", "cuda:1", 1),
        ("GpuArray(rows(), told=(2, 0), kind=MANAGED)", "lies in cuda_managed:0, and not in cuda:0 as told", 1),
        ("GpuArray(rows(), told=(2, 0), kind=PINNED)", "lies in cuda_host, and not in cuda:0 as told", 1),
        ("GpuArray(rows(), told=(1, 0))", "lies in cuda:0, and not in cpu as told", 1),
        ("GpuArray(rows(), version=(2, 0))", "is of version 2: expected 1 or older", 0),
        ("GpuArray(rows().astype(np.int32))", "got int32[3, 4]: convert it to float32", 1),
        ("GpuArray(rows()[:, :3])", "axis 1 is 3", 1),
        ("GpuArray(np.zeros((1,) * 9, np.float32))", "8", 1),
    ],
    ids=range(8),
)
def test_a_capsule_of_a_refused_array_is_given_back_once(
    on_gpu: Callable[[str], None], x: str, problem: str, deleted: int
) -> None:
    on_gpu(
        f"""
x = {x}
message = refusal(model(), x)
assert {problem!r} in message, message
settle()
assert x.deleted == {deleted}, x.deleted
"""
    )


def test_exporters_that_fail_are_quoted(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
class Failing(GpuArray):
    def __init__(self, error):
        super().__init__(rows())
        self.error = error

    def __dlpack__(self, **options):
        self.options.append(options)
        raise self.error


twice = model()
for error in (RuntimeError("use tensor.detach()"), TypeError("no such option"), BufferError("not like this")):
    message = refusal(twice, Failing(error))
    assert f"a __main__.Failing whose DLPack export failed: {type(error).__name__}: {error}" in message, message
x = Failing(KeyboardInterrupt())
try:
    twice.infer(x=x)
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
"""
    )


def test_an_exporter_of_read_only_memory_is_asked_for_a_capsule_that_can_say_so(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
class ReadOnly(GpuArray):
    def __dlpack__(self, *, stream, max_version=None):
        if max_version is None or max_version < (1, 0):
            self.options.append(None)
            raise BufferError("read-only")
        return super().__dlpack__(stream=stream, max_version=max_version)


class Old(GpuArray):
    def __dlpack__(self, *, stream):
        raise BufferError("the first reason")


twice, x = model(), ReadOnly(rows(), version=(1, 0))
same(answer(twice, x), 2 * rows())
assert x.options[0] is None and x.options[1]["max_version"] == (1, 0)
assert "failed: BufferError: the first reason" in refusal(twice, Old(rows()))
"""
    )


def test_what_is_no_new_capsule_is_refused(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
class Repeating(GpuArray):
    def __dlpack__(self, **options):
        return self.capsules[0] if self.capsules else super().__dlpack__(**options)


class Wrong(GpuArray):
    def __dlpack__(self, **options):
        return b"no capsule"


twice, x = model(), Repeating(rows())
same(answer(twice, x), 2 * rows())
assert "gave no new capsule, but <capsule object \\"used_dltensor" in refusal(twice, x)
settle()
assert x.deleted == 1
assert "gave no new capsule, but b'no capsule'" in refusal(twice, Wrong(rows()))
"""
    )


def test_managed_and_pinned_memory_are_read_in_place(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice = model()
for kind in (MANAGED, PINNED):
    x = GpuArray(rows(), kind=kind)
    same(answer(twice, x), 2 * rows())
    same(answer(twice, CudaArray(rows(), x.address)), 2 * rows())
    settle()
    assert x.deleted == 1
    # Host memory is nobody's stream's.
    assert [list(options) for options in x.options] == ([["stream"]] if kind == MANAGED else [[]])
"""
    )


def test_empty_arrays_have_no_address(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice = model()
same(answer(twice, CudaArray(rows()[:0], data=(0, False))), rows()[:0])
x = GpuArray(rows()[:0])
x.tensor.data = None
same(answer(twice, x), rows()[:0])
"""
    )


@pytest.mark.parametrize("call", ["cudaEventRecord", "cudaEventCreateWithFlags", "cudaStreamCreateWithPriority"])
def test_a_failure_of_cuda_is_a_typed_error_and_the_next_request_works(
    on_gpu: Callable[[str], None], call: str
) -> None:
    on_gpu(
        f"""
twice, x = model(), GpuArray(rows())
fail({call!r}, 999)
try:
    twice.infer(x=x)
except errors.CudaError as error:
    assert {call!r} in str(error) and "cuda:0" in str(error), error
    assert isinstance(error, RuntimeError) and error.code == 999
else:
    raise AssertionError
same(answer(twice, x), 2 * rows())
settle()
assert x.deleted == len(x.capsules)
"""
    )


def test_threads_import_at_the_same_time(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice, arrays = model(), [GpuArray(rows(i)) for i in range(4)]


def run(i):
    for _ in range(100):
        same(answer(twice, arrays[i]), 2 * rows(i))


threads = [threading.Thread(target=run, args=[i]) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
settle()
assert [x.deleted for x in arrays] == [100] * 4
"""
    )


def test_imports_leave_nothing(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice, x = model(), GpuArray(rows())
same(answer(twice, x), 2 * rows())
manager.close()
del twice, manager
settle()
assert _core._live_objects() == 0, _core._live_objects()
"""
    )


def test_a_forked_child_is_refused(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
import os, warnings
warnings.simplefilter("ignore")
twice, x = model("device"), GpuArray(rows())
y = answer(twice, x)
if os.fork() == 0:
    try:
        y.to_host()
    except errors.Closed as error:
        os._exit(0 if "parent process" in str(error) else 3)
    os._exit(4)
_, status = os.wait()
assert os.waitstatus_to_exitcode(status) == 0, status
same(y, 2 * rows())
"""
    )


def test_a_build_without_cuda_says_so(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice, x = model(), GpuArray(rows())
sys.modules["trtlab.cuda"] = None
try:
    twice.infer(x=x)
except errors.EngineError as error:
    assert "needs trtlab's cuda layer" in str(error) and "copy the array to host memory" in str(error), error
else:
    raise AssertionError
assert not x.capsules
"""
    )


def test_an_answer_on_the_gpu_is_seen_by_gpu_libraries_only(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
twice = model("device")
y = answer(twice, GpuArray(rows()))
assert (y.device, y.__dlpack_device__()) == ("cuda:0", (2, 0))
assert repr(y) == "trtlab.Tensor(float32[3, 4] on cuda:0)"
for look in (y.numpy, y.tolist, y._bits, lambda: np.asarray(y), lambda: np.add(y, y)):
    try:
        look()
    except errors.InvalidArgument as error:
        assert "memory of cuda:0" in str(error) and "tensor.to_host()" in str(error)
    else:
        raise AssertionError
for look in (
    lambda: memoryview(y),
    lambda: bytes(y),
    lambda: y.__dlpack__(dl_device=(1, 0), copy=False),
    lambda: y.__dlpack__(dl_device=(2, 1)),
    lambda: y.__dlpack__(copy=True),
):
    try:
        look()
    except BufferError as error:
        pass
    else:
        raise AssertionError
for options in ({}, {"stream": 1}, {"stream": -1}, {"dl_device": (2, 0)}, {"copy": False}, {"max_version": None}):
    assert '"dltensor"' in repr(y.__dlpack__(**options))
assert '"dltensor_versioned"' in repr(y.__dlpack__(max_version=(1, 1)))
interface = dict(y.__cuda_array_interface__)
address, read_only = interface.pop("data")
assert interface == {"version": 3, "shape": (3, 4), "strides": None, "typestr": "<f4", "stream": None}
host = y.to_host()
assert (host.device, host.to_host() is host, repr(host)) == ("cpu", True, "trtlab.Tensor(float32[3, 4])")
assert host.tolist() == np.from_dlpack(y, device="cpu").tolist() == (2 * rows()).tolist()
host.numpy()[:] = 0
same(y, 2 * rows())
same(answer(twice, y), 4 * rows())
same(answer(twice, CudaArray(rows(), address)), 4 * rows())
"""
    )


def test_every_dtype_is_shown_to_gpu_libraries_or_refused(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
from trtlab import cuda

names = {"bool": "|b1", "int8": "|i1", "uint8": "|u1"}
names |= {f"{kind}{8 * size}": f"<{kind[0]}{size}" for kind in ("int", "uint", "float") for size in (2, 4, 8)}
for dtype, typestr in names.items():
    y = cuda.allocate(64).tensor(dtype, (2, 3))
    assert np.dtype(typestr) == np.dtype(y.__cuda_array_interface__["typestr"]) == np.dtype(dtype), dtype
    assert '"dltensor"' in repr(y.__dlpack__())
for dtype in ("bfloat16", "float8_e4m3fn"):
    y = cuda.allocate(64).tensor(dtype, (2, 3))
    assert not hasattr(y, "__cuda_array_interface__")
    assert '"dltensor"' in repr(y.__dlpack__())
    assert y.to_host().nbytes == y.nbytes
"""
    )


def test_managed_memory_is_seen_by_both_sides(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
from trtlab import cuda

twice, y = model(), cuda.allocate(48, kind="managed").tensor("float32", (3, 4))
assert (y.device, y.__dlpack_device__(), y.to_host() is y) == ("cuda_managed:0", (13, 0), True)
y.numpy()[:] = rows()
assert np.from_dlpack(y, device="cpu").tolist() == np.asarray(y).tolist() == rows().tolist()
assert y.__cuda_array_interface__["data"][0] == y.numpy().__array_interface__["data"][0]
same(answer(twice, y), 2 * rows())
"""
    )


def test_an_answer_on_the_gpu_is_refused_by_host_models(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
y = answer(model("device"), GpuArray(rows()))
spec = [trtlab.TensorSpec("x", "float32", (None, 4))]
with trtlab.FunctionModel(lambda x: {"x": x}, spec, spec, name="host") as host:
    assert "memory of cuda:0: the model reads host memory, copy it there first" in refusal(host, y)
    same(host.infer(x=y.to_host()).result(60)["x"], 2 * rows())
"""
    )


def test_what_goes_wrong_while_copying_to_the_host_is_typed(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
y = answer(model("device"), GpuArray(rows()))
for call in ("cudaMemcpyAsync", "cudaStreamSynchronize"):
    fail(call, 719)
    try:
        y.to_host()
    except errors.CudaError as error:
        assert call in str(error) and "cuda:0" in str(error), error
    else:
        raise AssertionError
same(y, 2 * rows())
"""
    )


def test_copying_to_the_host_lets_others_run(on_gpu: Callable[[str], None]) -> None:
    on_gpu(
        """
y = answer(model("device"), GpuArray(rows()))
fake.fake_cuda_hold()
copying = threading.Thread(target=lambda: same(y, 2 * rows()))
copying.start()
while fake.fake_cuda_queued() == 0:
    pass
fake.fake_cuda_release()
copying.join(60)
assert not copying.is_alive()
"""
    )
