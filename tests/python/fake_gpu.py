"""For programs that tests run: arrays in the memory of the fake CUDA runtime, shown as GPU libraries show theirs.

The fake's memory is the host's, so that the program can look into it. TRTLAB_CUDART_LIBRARY names the fake.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import numpy as np

fake = ctypes.CDLL(os.environ["TRTLAB_CUDART_LIBRARY"])
fake.fake_cuda_calls.restype = ctypes.c_uint64
fake.fake_cuda_queued.restype = ctypes.c_size_t
fake.fake_cuda_violations.restype = ctypes.c_size_t
fake.fake_cuda_step.restype = ctypes.c_size_t
WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

CPU, CUDA, PINNED, MANAGED = 1, 2, 3, 13


class DLTensor(ctypes.Structure):
    """See https://dmlc.github.io/dlpack/latest/c_api.html."""

    _fields_ = (
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
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


def check(status: int) -> None:
    assert status == 0, f"the fake CUDA runtime says {status}"


def calls(name: str) -> int:
    """How often CUDA's function was called."""
    return int(fake.fake_cuda_calls(name.encode()))


def copied_to_gpu() -> int:
    """Bytes that copies have moved to GPUs, from the host or from each other."""
    moved = (ctypes.c_uint64 * 6)()  # FakeCudaCopies: count, host to device, device to host, device to device, ...
    fake.fake_cuda_copies(ctypes.byref(moved))
    return moved[1] + moved[3]


def fail(name: str, code: int, nth: int = 1) -> None:
    """Have the ``nth`` call from now fail; see fake_cuda.hpp."""
    fake.fake_cuda_fail(name.encode(), nth, code, 0)


def copied_to(kind: int, source: Any, device: int = 0) -> int:
    """The address of a copy of ``source`` in new memory of the device."""
    address = ctypes.c_void_p()
    size = ctypes.c_size_t(max(source.nbytes, 1))
    check(fake.cudaSetDevice(device))
    if kind == MANAGED:
        check(fake.cudaMallocManaged(ctypes.byref(address), size, 1))
    elif kind == PINNED:
        check(fake.cudaHostAlloc(ctypes.byref(address), size, 0))
    else:
        check(fake.cudaMalloc(ctypes.byref(address), size))
    check(fake.cudaSetDevice(0))
    assert address.value is not None
    ctypes.memmove(address.value, source.ctypes.data, source.nbytes)
    return address.value


class Stream:
    """A stream of another library's, or one of CUDA's default streams, with work in it."""

    def __init__(self, handle: int | None = None) -> None:
        self.handle, self._event = ctypes.c_void_p(handle), ctypes.c_void_p()
        if handle is None:
            check(fake.cudaStreamCreateWithPriority(ctypes.byref(self.handle), 1, 0))
        check(fake.cudaEventCreateWithFlags(ctypes.byref(self._event), 2))

    def make_wait(self, other: int) -> None:
        """Have what comes into the stream ``other`` wait for what is in this one."""
        check(fake.cudaEventRecord(self._event, self.handle))
        check(fake.cudaStreamWaitEvent(ctypes.c_void_p(other), self._event, 0))


class LateWrite:
    """The writing of ``values`` to ``address`` in a stream, which has begun, and goes on when ``finish`` is called.

    Work in other streams waits for `run_all_else`.
    """

    def __init__(self, stream: Stream, address: int, values: Any) -> None:
        self._address, self._values = address, values
        self._begun, self._go = threading.Event(), threading.Event()
        self._work, self._nothing = WORK(self._write), WORK(0)
        fake.fake_cuda_hold()
        check(fake.fake_cuda_enqueue(stream.handle, self._work, None, self._nothing))
        self._gpu = threading.Thread(target=fake.fake_cuda_step, args=(None, ctypes.c_size_t(1)))
        self._gpu.start()
        assert self._begun.wait(60)

    def _write(self, _: object) -> None:
        self._begun.set()
        assert self._go.wait(60)
        ctypes.memmove(self._address, self._values.ctypes.data, self._values.nbytes)

    def run_all_else(self) -> int:
        """Run what does not wait for this; return how much does."""
        while fake.fake_cuda_step(None, ctypes.c_size_t(1000)):
            pass
        return int(fake.fake_cuda_queued())

    def finish(self) -> None:
        self._go.set()
        self._gpu.join()
        fake.fake_cuda_release()


class GpuArray:
    """An array in GPU memory that shows itself through DLPack alone."""

    def __init__(
        self,
        source: Any,
        *,
        kind: int = CUDA,
        index: int = 0,
        told: tuple[int, int] | None = None,
        version: tuple[int, int] | None = None,
        stream: Stream | None = None,
    ) -> None:
        """``told``: what __dlpack_device__ says instead of the truth. ``version``: of capsules that have one."""
        self.address = copied_to(kind, source, index)
        self.told = told or (kind, index)
        self.stream = stream
        self.deleted = 0
        self.capsules: list[object] = []
        self.options: list[dict[str, Any]] = []
        self._version = version
        self._keep: list[object] = []
        shape = (ctypes.c_int64 * source.ndim)(*source.shape)
        strides = (ctypes.c_int64 * source.ndim)(*(s // source.itemsize for s in source.strides))
        code = {"i": 0, "u": 1, "f": 2, "b": 6}[source.dtype.kind]
        self._keep += [shape, strides]
        self.tensor = DLTensor(
            self.address, kind, index, source.ndim, code, source.itemsize * 8, 1, shape, strides, 0
        )  # fmt: skip
        self._deleter = DELETER(self._delete)

    def _delete(self, _: object) -> None:
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.told

    def __dlpack__(self, **options: Any) -> object:
        self.options.append(options)
        if self.stream is not None:
            self.stream.make_wait(options["stream"])
        return self.capsule()

    def capsule(self) -> object:
        """A new capsule."""
        managed: Managed | ManagedVersioned
        if self._version is None:
            managed = Managed(self.tensor, None, self._deleter)
            name = b"dltensor"
        else:
            managed = ManagedVersioned(*self._version, None, self._deleter, 0, self.tensor)
            name = b"dltensor_versioned"
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._keep += [managed, name]
        self.capsules.append(make(ctypes.addressof(managed), name, None))
        return self.capsules[-1]


class CudaArray:
    """An array in GPU memory that shows itself through `__cuda_array_interface__` alone."""

    def __init__(self, source: Any, address: int | None = None, **changes: Any) -> None:
        self.address = copied_to(CUDA, source) if address is None else address
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": source.shape,
            "typestr": source.dtype.str,
            "data": (self.address, False),
            "strides": None if source.flags.c_contiguous else source.strides,
            "stream": None,
        } | changes


def rows(start: int = 0) -> Any:
    """float32[3, 4]."""
    return np.arange(start, start + 12, dtype=np.float32).reshape(3, 4)
