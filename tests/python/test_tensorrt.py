"""`trtlab.tensorrt` against the fake TensorRT and the fake CUDA runtime, each program in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PLAN = b"""trtlab fake plan 1
name twice
layer double
input x float32 -1x4
output y float32 -1x4 = double x
profile x 1x4 2x4 4x4
profile x 3x4 6x4 8x4
weights 1024
activation 64
end
"""

BEGIN = f"""
import ctypes, threading
import numpy as np
import trtlab
from trtlab import cuda, errors, tensorrt

PLAN = {PLAN!r}

def refused(error, function, *words):
    try:
        function()
    except error as raised:
        assert type(raised) is error, type(raised)
        for word in words:
            assert word in str(raised), (word, str(raised))
    else:
        raise AssertionError("no error")
"""


@pytest.fixture(params=[101601, 110400, 10400, 10701])
def run(
    request: pytest.FixtureRequest, python: Callable[..., str], fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Run a program with the fakes, as a release of each generation."""
    monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", str(fakes / "libfake_cudart.so"))
    monkeypatch.setenv("TRTLAB_TENSORRT_LIBRARY", str(fakes / "fake" / "nvinfer" / "libfake_nvinfer.so"))
    monkeypatch.setenv("FAKE_NVINFER_CUDART", str(fakes / "libfake_cudart.so"))
    monkeypatch.setenv("FAKE_NVINFER_VERSION", str(request.param))
    return lambda code: python(BEGIN + code)


def test_an_engine_tells_what_it_is(run: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "twice.plan").write_bytes(PLAN)
    run(f"""
engine = tensorrt.Engine({str(tmp_path / "twice.plan")!r})
assert engine.name.endswith("twice.plan")
assert (engine.profiles, engine.layers, engine.weights_bytes) == (2, 1, 1024)
assert engine.activation_bytes() == 2048 and engine.activation_bytes(0) == 1024
x, y = engine.tensors
assert (x.name, x.input, x.dtype, x.shape, x.linear) == ("x", True, "float32", (-1, 4), True)
assert x.profiles == [((1, 4), (2, 4), (4, 4)), ((3, 4), (6, 4), (8, 4))]
assert (y.name, y.input, y.profiles) == ("y", False, [])
assert engine.describe() == '{{"Layers": ["double"]}}'
assert engine.serialize() == PLAN
assert not engine.data_dependent and not engine.refittable
assert engine.runtime.library is tensorrt.library()
assert tensorrt.Engine(bytearray(PLAN), name="mine").name == "mine"
assert tensorrt.library().builder == ("tensorrt_rtx" if tensorrt.library().flavour == "rtx" else "tensorrt")
""")


def test_a_context_computes_with_addresses_and_a_stream(run: Callable[[str], str]) -> None:
    run("""
engine = tensorrt.Engine(PLAN)
context = engine.create_context()
assert context.engine is engine and context.profile == 0
assert context.shape("y") == (-1, 4)
context.set_input_shape("x", (2, 4))
context.infer_shapes()
assert context.shape("y") == (2, 4) and context.max_output_bytes("y") == 32
x, y = cuda.empty((2, 4), "float32", "cuda:0"), cuda.empty((2, 4), "float32", "cuda:0")
values = np.arange(8, dtype=np.float32).reshape(2, 4)
x.copy_from(values)
context.set_address("x", x.__cuda_array_interface__["data"][0])
context.set_address("y", y.__cuda_array_interface__["data"][0])
scratch = cuda.empty((context.activation_bytes(),), "uint8", "cuda:0")
context.set_activation_memory(scratch.__cuda_array_interface__["data"][0], context.activation_bytes())
stream = cuda.Stream("cuda:0")
context.enqueue(stream)
stream.synchronize()
ctypes.memmove(values.ctypes.data, y.__cuda_array_interface__["data"][0], 32)
assert (values == 2 * np.arange(8).reshape(2, 4)).all(), values
assert context.profile_layers(stream) == [("double", 0.25)]
context.enqueue(0)
context.set_profile(1, stream)
assert context.profile == 1 and context.shape("x") == (-1, 4)
""")


def test_what_does_not_fit_is_refused_by_name(run: Callable[[str], str]) -> None:
    run("""
engine = tensorrt.Engine(PLAN)
context = engine.create_context()
words = "input 'x'", "axis 0", "1 to 4 (best 2)", "got 5"
refused(errors.InvalidArgument, lambda: context.set_input_shape("x", (5, 4)), *words)
refused(errors.InvalidArgument, lambda: context.set_input_shape("x", (1,) * 9), "9")
refused(errors.InvalidArgument, lambda: context.set_input_shape("x", "24"), "'x'")
refused(errors.InvalidArgument, lambda: context.set_input_shape("x", (-1, 4)), "-1")
refused(errors.NotFound, lambda: context.set_input_shape("z", (1, 4)), "'z'", "'x', 'y'")
refused(errors.InvalidArgument, lambda: context.set_address("x", -1), "address of 'x'")
refused(errors.InvalidArgument, lambda: context.set_activation_memory(8, 256), "aligned to 256")
refused(errors.InvalidArgument, lambda: context.enqueue("default"), "stream")
refused(errors.EngineError, lambda: context.enqueue(0), "the shape of 'x'")
refused(errors.InvalidArgument, lambda: engine.activation_bytes(2), "0 to 1")
refused(errors.InvalidArgument, lambda: tensorrt.Engine(b"garbage"), "7 bytes", "magicTag")
refused(errors.InvalidArgument, lambda: tensorrt.Engine(3), "a path, or bytes")
refused(errors.NotFound, lambda: tensorrt.Engine("/nowhere/m.plan"), "/nowhere/m.plan", "trtlab.build")
refused(errors.NotFound, lambda: tensorrt.Engine(PLAN, device="cuda:7"), "cuda:7")
refused(errors.InvalidArgument, lambda: tensorrt.Runtime(device="gpu"), "gpu")
refused(errors.InvalidArgument, lambda: tensorrt.Runtime(log_severity="loud"), "'loud'", "'warning'")
refused(errors.InvalidArgument, lambda: tensorrt.Runtime(max_threads=-1), "max_threads")
refused(errors.InvalidArgument, lambda: tensorrt.library("onnx"), "'onnx'")
refused(errors.InvalidArgument, lambda: tensorrt.Library(version="ten"), "ten")
released = memoryview(PLAN)
released.release()
refused(errors.InvalidArgument, lambda: tensorrt.Engine(released), "cannot be read")
""")


def test_threads_take_turns_with_a_context(run: Callable[[str], str]) -> None:
    run("""
context = tensorrt.Engine(PLAN).create_context()
def work():
    for rows in (1, 2, 3, 4) * 100:
        context.set_input_shape("x", (rows, 4))
        context.infer_shapes()
        assert context.shape("y")[1] == 4
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""")


def test_an_engine_lives_as_long_as_its_contexts(run: Callable[[str], str]) -> None:
    run("""
import gc
context = tensorrt.Engine(PLAN).create_context()
gc.collect()
context.set_input_shape("x", (2, 4))
# Still there when the interpreter ends.
""")


def test_a_child_of_a_fork_is_refused_and_leaves_what_is_the_parents(run: Callable[[str], str]) -> None:
    run("""
import os
engine = tensorrt.Engine(PLAN)
context = engine.create_context()
child = os.fork()
if child == 0:
    refused(errors.Closed, lambda: context.shape("x"), "parent process")
    refused(errors.Closed, lambda: engine.create_context(), "parent process")
    del context, engine
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
context.set_input_shape("x", (2, 4))
""")


LIVE_ENGINE = """
# What NVIDIA's Python API holds: an ICudaEngine* that the library has made, behind pybind11's conduit.
library = ctypes.CDLL(tensorrt.library().path)
LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)
log = LOG(lambda self, severity, message: None)
table = (ctypes.c_void_p * 5)(*[ctypes.cast(log, ctypes.c_void_p).value] * 5)
logger = ctypes.c_void_p(ctypes.addressof(table))
library.createInferRuntime_INTERNAL.restype = ctypes.c_void_p
runtime = library.createInferRuntime_INTERNAL(ctypes.byref(logger), 0)
def method(pointer, slot, result, *arguments):
    implementation = ctypes.c_void_p.from_address(pointer + 8).value
    function = ctypes.c_void_p.from_address(ctypes.c_void_p.from_address(implementation).value + 8 * slot).value
    return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(function), implementation
deserialize, implementation = method(runtime, 3, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
pointer = deserialize(implementation, PLAN, len(PLAN))
assert pointer

new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
get = ctypes.pythonapi.PyCapsule_GetPointer
get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)

def conduit(self, abi, type_info, kind):
    assert kind == b"raw_pointer_ephemeral"
    if abi != b"system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1":
        return None
    name = ctypes.c_char_p.from_address(get(type_info, b"St9type_info") + 8).value
    if name.lstrip(b"*") != b"N8nvinfer111ICudaEngineE":
        return None
    return new(self.pointer, b"N8nvinfer111ICudaEngineE", None)

def live(pointer, name="ICudaEngine", module="tensorrt_fake", **more):
    made = type(name, (), {"__module__": module, "_pybind11_conduit_v1_": conduit, **more})()
    made.pointer = pointer
    return made
"""


def test_a_live_engine_of_the_official_api_is_taken(run: Callable[[str], str]) -> None:
    run(
        LIVE_ENGINE
        + """
import gc, weakref
official = live(pointer, __pybind11_module_local_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1__=1)
gone = weakref.ref(official)
engine = tensorrt.Engine(official, name="theirs")
assert engine.runtime.library.path == tensorrt.library().path
del official
gc.collect()
assert gone() is not None, "its user must keep it alive"
assert engine.name == "theirs" and engine.weights_bytes == 0
context = engine.create_context()
context.set_input_shape("x", (2, 4))
context.infer_shapes()
del engine
gc.collect()
assert gone() is not None
del context
gc.collect()
assert gone() is None
"""
    )


def test_what_is_no_live_engine_of_the_library_is_refused(run: Callable[[str], str]) -> None:
    run(
        LIVE_ENGINE
        + """
runtime_ = tensorrt.Runtime()
refused(errors.InvalidArgument, lambda: runtime_.adopt(3), "ICudaEngine", "int")
refused(errors.InvalidArgument, lambda: runtime_.adopt(live(pointer, name="IRuntime")), "IRuntime")
refused(errors.InvalidArgument, lambda: runtime_.adopt(live(pointer, module="mine")), "mine.ICudaEngine")
plain = type("ICudaEngine", (), {"__module__": "tensorrt"})()
refused(errors.InvalidArgument, lambda: runtime_.adopt(plain), "_pybind11_conduit_v1_", "tensorrt 10.16")
other = live(pointer, __pybind11_module_local_v4_gcc_libstdcpp_cxxabi1016__=1)
refused(errors.InvalidArgument, lambda: runtime_.adopt(other), "gcc_libstdcpp_cxxabi1016")
words = (ctypes.c_void_p * 2)(ctypes.addressof(table), ctypes.addressof(table))
refused(errors.InvalidArgument, lambda: runtime_.adopt(live(ctypes.addressof(words))), "expected an ICudaEngine of")
"""
    )


def test_importing_needs_nothing_installed(python: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLAB_TENSORRT_LIBRARY", "/nowhere/libnvinfer.so")
    monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", "/nowhere/libcudart.so")
    python("""
import sys
import trtlab
from trtlab import errors, tensorrt
assert trtlab.tensorrt is tensorrt
assert "tensorrt" not in sys.modules and "numpy" not in sys.modules
with open("/proc/self/maps") as maps:
    assert "nvinfer" not in maps.read()
try:
    tensorrt.library()
except errors.NotFound as error:
    assert "TRTLAB_TENSORRT_LIBRARY" in str(error) and "/nowhere/libnvinfer.so" in str(error)
else:
    raise AssertionError
""")
