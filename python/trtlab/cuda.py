"""GPUs, their memory, and streams of work on them, through CUDA's runtime.

The library is opened when it is first needed, from PyPI's ``nvidia-cuda-runtime`` (``pip install "trtlab[cuda]"``) or
where the loader finds it, and needs no driver to be opened: ``device_count()`` is then 0.

    if trtlab.cuda.device_count() > 0:
        image = trtlab.cuda.pinned((3, 224, 224), "float32")      # a numpy array that GPUs copy from at full speed
        on_gpu = trtlab.cuda.empty((3, 224, 224), "float32", "cuda:0")
        on_gpu.copy_from(image)                                   # or copy(on_gpu, image, stream), which does not wait
        model.infer(x=on_gpu)

Everything that may wait for a GPU, or that allocates, does so without the GIL.
"""

from __future__ import annotations

import importlib.util
import math
import operator
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtlab._bindings import _core, _cuda
from trtlab._bindings._cuda import Buffer, Device, DeviceLoad, DeviceMemory, Library
from trtlab._layout import check_whole, dtype_name, extents_of, numpy_dtype
from trtlab.errors import CudaError, InvalidArgument

if TYPE_CHECKING:
    import numpy as np

    from trtlab._bindings._core import Tensor

__all__ = [
    "Array",
    "Buffer",
    "CudaError",
    "Device",
    "DeviceLoad",
    "DeviceMemory",
    "Event",
    "Library",
    "Memory",
    "Stream",
    "allocate",
    "copy",
    "device",
    "device_count",
    "devices",
    "empty",
    "library",
    "pinned",
    "why_no_device",
]

_FOLDERS = ("cu13/lib", "cuda_runtime/lib")
_FIRST = "cuda"
_CPU = (1, 0)

_library: Library | None = None
_lock = threading.Lock()


def _package_folders() -> list[str]:
    """Where PyPI's packages for CUDA 13 and 12 keep the shared library, found without importing them."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec.submodule_search_locations or []) if spec else []
    return [str(Path(root) / folder) for folder in _FOLDERS for root in roots if (Path(root) / folder).is_dir()]


def library() -> Library:
    """Return the process's CUDA runtime, opened at the first call.

    The environment variable TRTLAB_CUDART_LIBRARY names a file to use instead of the package's. Needs no driver. Raises
    EngineError saying what was looked for and what to install.
    """
    global _library
    with _lock:
        if _library is None:
            _library = Library(directories=_package_folders())
        return _library


def device_count() -> int:
    """Return how many GPUs this process may use: 0 where there is none, or no driver. Starts the driver."""
    return library().device_count()


def why_no_device() -> str:
    """Return why there is no GPU; empty if there is one."""
    return library().why_no_device()


def devices() -> list[Device]:
    """Return all GPUs that this process may use, in CUDA's order."""
    return library().devices()


def device(name: str | Device = _FIRST) -> Device:
    """Return a GPU: "cuda" (the first), "cuda:1", or "cuda:GPU-<uuid>", which is the same one in every process.

    Raises InvalidArgument for another name, NotFound (saying why) if there is no such GPU.
    """
    if isinstance(name, Device):
        return name
    if not isinstance(name, str):
        raise InvalidArgument(f"a GPU's name: expected 'cuda', 'cuda:0' or 'cuda:GPU-<uuid>', got {name!r}")
    return library().device(name)


class Stream(_cuda.Stream):
    """A queue of work on a GPU: what is put in runs in order, and at the same time as other streams.

    ``device`` is a GPU or its name; ``priority`` lower is more urgent. Raises CudaError, NotFound, InvalidArgument.
    Keeps what the copies in it use until they are done; dropped before, it waits for them.
    """

    def __init__(self, device: str | Device = _FIRST, *, priority: int = 0) -> None:
        super().__init__(_device(device), check_whole("a stream's priority", priority, -(2**31), 2**31 - 1))


class Event(_cuda.Event):
    """A point in a stream, for the host or for other streams to wait for.

    ``kind``: "plain" for order only, "timing" for ``elapsed_since``, "blocking" for a ``synchronize`` that sleeps
    rather than spins. Raises CudaError, NotFound, InvalidArgument.
    """

    def __init__(self, device: str | Device = _FIRST, kind: str = "plain") -> None:
        super().__init__(_device(device), kind)


class Memory(_cuda.Memory):
    """Memory of a GPU as a ``trtlab.memory.MemoryResource``, for other resources to stand on.

    ``kind``: as of ``allocate``. Raises NotFound, InvalidArgument.
    """

    def __init__(self, device: str | Device = _FIRST, kind: str = "device") -> None:
        super().__init__(_device(device), kind)


def allocate(size_bytes: int, device: str | Device = _FIRST, kind: str = "device") -> Buffer:
    """Return ``size_bytes`` bytes, uninitialised, aligned to 256.

    ``kind``: "device" for a GPU's own memory, "pinned" for host memory near the GPU that it copies from and to at full
    speed, "managed" for memory that moves between the two as it is touched. The last two are Python buffers as well.
    May block, without the GIL. Raises OutOfMemory (how much, of what, what was free), CudaError, NotFound,
    InvalidArgument.
    """
    return _cuda.allocate(_device(device), check_whole("size_bytes", size_bytes, 0, 2**63 - 1), kind)


def pinned(shape: int | Sequence[int], dtype: Any = "float32", device: str | Device = _FIRST) -> np.ndarray[Any, Any]:
    """Return a numpy array, uninitialised, in pinned memory near ``device``: inputs in it are not copied once more.

    ``dtype`` as numpy takes it, or "bfloat16" and "float8_e4m3fn" with the package ml_dtypes. Errors as ``allocate``.
    """
    import numpy as np

    extents, numbers = extents_of(shape), numpy_dtype(dtype)
    buffer = allocate(numbers.itemsize * math.prod(extents), device, "pinned")
    # The array keeps the buffer, and the buffer its memory.
    memory: Any = buffer
    array: np.ndarray[Any, Any] = np.ndarray(extents, dtype=numbers, buffer=memory)
    return array


class Array:
    """A dense, row-major array in the memory of a GPU, that models and GPU libraries take without a copy.

    Speaks DLPack and ``__cuda_array_interface__`` (version 3). After ``copy(array, ..., stream)`` whoever takes it
    waits for that copy, on the GPU and not on the host. Make one with ``empty``.
    """

    # Let go of in this order: the buffer, which gives memory back without the GIL, after the tensor over it.
    __slots__ = ("__weakref__", "_array", "_buffer", "_stream")

    def __init__(self, buffer: Buffer, dtype: str, shape: Sequence[int]) -> None:
        self._buffer = buffer
        self._array: Tensor = buffer.tensor(dtype, shape)
        self._stream: Stream | None = None  # the last one that writes it

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return self._array.shape

    @property
    def dtype(self) -> str:
        """Name of the element type, as numpy's."""
        return self._array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self._array.nbytes

    @property
    def device(self) -> str:
        """The GPU: "cuda:0"."""
        return self._array.device

    @property
    def buffer(self) -> Buffer:
        """The memory."""
        return self._buffer

    def copy_from(self, source: Any) -> None:
        """Copy ``source`` into the array: a GPU array of as many bytes, or a host array of the same shape and dtype.

        Blocks until it is done, without the GIL. Raises InvalidArgument (expected, got), CudaError.
        """
        copy(self, source)

    def copy_to_host(self) -> np.ndarray[Any, Any]:
        """Return a copy as a numpy array. Blocks until it is done, without the GIL. Raises CudaError, OutOfMemory."""
        self._settle()
        host: np.ndarray[Any, Any] = self._array.to_host().numpy()
        return host

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Export the memory (https://dmlc.github.io/dlpack) to work in ``stream``, which waits for copies under way.

        ``stream``: None or 1 for CUDA's default stream, 2 for the thread's own, -1 for no waiting, or a handle. A copy
        for the host is made for ``dl_device=(1, 0)``, without the GIL.
        """
        consumer = _consumer(stream)
        if dl_device == _CPU:
            self._settle()
        elif self._stream is not None and consumer != -1:
            self._stream._precede(consumer)
        options: dict[str, Any] = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
        return self._array.__dlpack__(**{name: value for name, value in options.items() if value is not None})

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, n): the memory of GPU n; (13, n): managed memory."""
        return self._array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, with the stream of a copy that may be under way."""
        interface = self._array.__cuda_array_interface__
        if self._stream is not None:
            interface["stream"] = self._stream.handle
        return interface

    def _settle(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
            self._stream = None

    def __repr__(self) -> str:
        return f"trtlab.cuda.Array({self.dtype}{list(self.shape)} on {self.device})"


def empty(shape: int | Sequence[int], dtype: Any = "float32", device: str | Device = _FIRST) -> Array:
    """Return an array, uninitialised, in the memory of ``device``.

    ``dtype`` and errors as of ``pinned``, without ml_dtypes.
    """
    extents, name = extents_of(shape), dtype_name(dtype)
    return Array(allocate(_cuda.dense_bytes(name, extents), device), name, extents)


def copy(destination: Any, source: Any, stream: Stream | None = None) -> None:
    """Copy bytes between any two memories: of as many bytes, dense, the destination writable.

    Both are ``Array``, ``Buffer`` (whole, or a ``slice``), a GPU array (``__cuda_array_interface__``), or a host array
    with a Python buffer; a host array for an ``Array`` has its shape and dtype. With ``stream`` the copy is put into
    it, both are kept until it is done, and this does not wait, unless host memory is not pinned. Without, it blocks
    until all is done, without the GIL. Raises InvalidArgument (expected, got), CudaError.
    """
    for one, other in ((destination, source), (source, destination)):
        _check_host(one, other)
    if stream is not None and not isinstance(stream, Stream):
        raise InvalidArgument(f"a copy's stream: expected a trtlab.cuda.Stream, got a {type(stream).__name__}")
    to, of = _range(destination, True), _range(source, False)
    gpu = stream.device if stream is not None else _gpu_of(destination) or _gpu_of(source) or device()
    for end in (destination, source):
        pending = _pending(end)
        if pending is None:
            continue
        if stream is None:
            _cuda.synchronize(gpu, pending)
        elif pending != stream.handle:
            stream._follow(pending)
    if stream is None:
        _cuda.copy(gpu, to, of)
        return
    stream._copy(to, of)
    if isinstance(destination, Array):
        destination._stream = stream


def _device(name: str | Device) -> Device:
    return device(name)


def _gpu_of(value: Any) -> Device | None:
    buffer = value.buffer if isinstance(value, Array) else value
    if isinstance(buffer, Buffer):
        return buffer.device
    name, _, ordinal = buffer.location.partition(":") if isinstance(buffer, _core.Buffer) else ("", "", "")
    return device(f"cuda:{ordinal}") if name in ("cuda", "cuda_managed") else None


def _check_host(array: Any, host: Any) -> None:
    """Refuse a host array that does not fit the array on the GPU that it is copied from or to."""
    if not isinstance(array, Array) or not (hasattr(host, "__array_interface__") or isinstance(host, (list, tuple))):
        return
    what = f"{getattr(host, 'dtype', type(host).__name__)}{list(getattr(host, 'shape', []))}"
    if not hasattr(host, "shape") or str(host.dtype) != array.dtype or tuple(host.shape) != array.shape:
        raise InvalidArgument(
            f"a copy of a host array and {array!r}: expected {array.dtype}{list(array.shape)}, got {what}"
        )


def _range(value: Any, writable: bool) -> Any:
    """What the bindings copy: a Buffer, a buffer of bytes, or (address, bytes, keeper) of a GPU."""
    if isinstance(value, _core.Buffer):
        return value
    if isinstance(value, Array):
        return value._buffer.slice(0, value.nbytes)
    end = "destination" if writable else "source"
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return _host_bytes(value, writable)
    try:
        address, read_only = interface["data"]
        shape, strides = extents_of(interface["shape"]), tuple(interface.get("strides") or ())
        address, itemsize = operator.index(address or 0), int(interface["typestr"][2:])
        if not 0 <= address < 2**64 or itemsize <= 0 or (strides and len(strides) != len(shape)):
            raise ValueError(interface)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"the {end} of a copy: its __cuda_array_interface__ is broken: {error!r}") from None
    dense = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides), strict=False):
        if extent > 1 and stride != dense:
            raise InvalidArgument(f"the {end} of a copy, a {type(value).__name__}: expected a dense one, got strides")
        dense *= extent
    if writable and read_only:
        raise InvalidArgument(f"the destination of a copy, a {type(value).__name__}, is read-only")
    return address, itemsize * math.prod(shape), value


def _pending(value: Any) -> int | None:
    """The handle of the stream that may still be writing."""
    interface = getattr(value, "__cuda_array_interface__", None)
    handle = interface.get("stream") if interface is not None else None
    return None if handle is None else _consumer(handle)


def _host_bytes(value: Any, writable: bool) -> Any:
    """Numpy arrays as bytes, since not every dtype has a Python buffer; everything else as it is."""
    interface = getattr(value, "__array_interface__", None)
    if interface is None:
        return value
    import numpy as np

    array = np.asarray(value)
    if not array.flags.c_contiguous:
        if writable:
            raise InvalidArgument("the destination of a copy: expected a dense host array, got one with strides")
        array = np.ascontiguousarray(array)
    return array.reshape(-1).view(np.uint8)


def _consumer(stream: int | None) -> int:
    if stream is None:
        return 1  # the protocol's word for CUDA's default stream
    if not isinstance(stream, int) or stream == 0 or stream < -1:
        raise InvalidArgument(f"a GPU array's stream: expected None, -1, 1, 2 or a stream's handle, got {stream!r}")
    return stream


def _after_fork() -> None:
    # CUDA does not survive a fork; a child of a process that has not used it may.
    global _library, _lock
    _library = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
