"""TensorRT on the GPU, under direct control: libraries, runtimes, engines, execution contexts.

NVIDIA's shared library is opened at run time: TensorRT 10 or 11 (full, lean or dispatch), or TensorRT for RTX, wherever
PyPI's packages or the loader keep it. Importing this module opens none.

    engine = trtlab.tensorrt.Engine("resnet50.plan")
    for tensor in engine.tensors:
        print(tensor.name, tensor.dtype, tensor.shape, tensor.profiles)

To be asked for answers, a plan is loaded with ``InferenceManager.load``.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtlab._bindings import _tensorrt
from trtlab._bindings._tensorrt import Library, TensorInfo
from trtlab.errors import InvalidArgument, NotFound
from trtlab.manager import check_flag, check_int, check_text, shown

__all__ = [
    "Candidate",
    "Engine",
    "ExecutionContext",
    "Library",
    "Runtime",
    "TensorInfo",
    "find",
    "library",
]

_PACKAGES = ("tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs", "tensorrt_dispatch_libs")
_FLAVOURS = {None: [], "tensorrt": ["full", "lean", "dispatch"], "tensorrt_rtx": ["rtx"]}
_BYTES = (bytes, bytearray, memoryview)
_MOST_ADDRESS = 2**64 - 1

_libraries: dict[str | None, Library] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Candidate:
    """A file that looks like a TensorRT library.

    ``flavour`` is 'full', 'rtx', 'lean' or 'dispatch'; ``version`` is empty if the file could not be opened;
    ``problem`` says why it cannot be used, and is empty if it can.
    """

    path: str
    flavour: str
    version: str
    problem: str


def _package_folders() -> list[str]:
    """Where PyPI's packages keep the shared libraries, found without importing them."""
    folders: list[str] = []
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        folders += (spec.submodule_search_locations or []) if spec else []
    return folders


def find(version: str = "") -> list[Candidate]:
    """Return every TensorRT library that would be looked at, in the order of the search.

    Opens the files, without the GIL. ``version`` begins the version of those that can be used: "10", "11.4", "1.4.0".
    Raises InvalidArgument (no version), NotFound (TRTLAB_TENSORRT_LIBRARY names no file).
    """
    check_text("version", version)
    return [Candidate(*one) for one in _tensorrt.find_libraries(directories=_package_folders(), version=version)]


def library(builder: str | None = None) -> Library:
    """Return the process's TensorRT library, opened at the first call.

    ``builder``: the Python package that made the plans it is to run, "tensorrt" or "tensorrt_rtx"; None: TensorRT, or
    TensorRT for RTX where that is not installed. The environment variable TRTLAB_TENSORRT_LIBRARY names a file to use
    instead of any that is found. Raises EngineError saying what was looked for, what was refused and what to install;
    NotFound; InvalidArgument. Blocks while the file is opened, without the GIL.
    """
    if builder not in _FLAVOURS:
        raise InvalidArgument(f"library: expected 'tensorrt', 'tensorrt_rtx' or None, got {shown(builder)}")
    with _lock:
        if builder not in _libraries:
            _libraries[builder] = Library(directories=_package_folders(), flavours=_FLAVOURS[builder])
        return _libraries[builder]


class Runtime:
    """TensorRT's runtime on one GPU: makes engines of plans.

    ``library``: None for ``trtlab.tensorrt.library()``. ``device``: "cuda:0", "cuda", "cuda:GPU-<uuid>", or None for
    no GPU, which TensorRT for RTX takes, and which is enough to have plans checked. ``max_threads``: that TensorRT
    may use, 0 for its own choice. ``host_code_allowed``: whether plans may bring code for the host, which is run:
    only for plans that are trusted. ``log_severity``: 'internal_error', 'error', 'warning', 'info' or 'verbose'; then
    ``take_log`` has TensorRT's lines from that severity up. Without it, errors that no exception has taken along go
    to trtlab's log.

    Raises EngineError in TensorRT's own words, CudaError, NotFound (no such device), InvalidArgument. The GIL is
    released by everything that reaches TensorRT.
    """

    def __init__(
        self,
        library: Library | None = None,
        device: str | None = "cuda:0",
        *,
        max_threads: int = 0,
        host_code_allowed: bool = False,
        log_severity: str | None = None,
    ) -> None:
        if library is not None and not isinstance(library, Library):
            raise InvalidArgument(f"library: expected a trtlab.tensorrt.Library or None, got {shown(library)}")
        if device is not None:
            check_text("device", device)
        check_int("max_threads", max_threads, 0, 2**31 - 1)
        check_flag("host_code_allowed", host_code_allowed)
        if log_severity is not None:
            check_text("log_severity", log_severity)
        self._library = library if library is not None else _default_library()
        self._native = _tensorrt.Runtime(
            self._library,
            "" if device is None else _cudart(),
            device,
            max_threads,
            host_code_allowed,
            log_severity,
        )

    @property
    def library(self) -> Library:
        """The library that this is a runtime of."""
        return self._library

    @property
    def max_threads(self) -> int:
        """Threads that TensorRT may use."""
        return self._native.max_threads

    @property
    def other_bytes(self) -> int:
        """Device memory in bytes that TensorRT has allocated here and that is no engine's weights."""
        return self._native.other_bytes

    def load(self, plan: str | os.PathLike[str] | bytes, name: str | None = None) -> Engine:
        """Make an engine of a plan, a file or its bytes, which are not needed any more then.

        ``name`` is for messages. Blocks for milliseconds to seconds, without the GIL. Raises InvalidArgument (no
        plan, or a damaged one), NotFound, EngineError (a plan of another version, or for another GPU, in TensorRT's
        words), OutOfMemory.
        """
        if name is not None:
            check_text("name", name)
        if isinstance(plan, _BYTES):
            return Engine._of(self, self._native.deserialize(_bytes(plan), name or ""))
        path = _path(plan)
        return Engine._of(self, self._native.deserialize(_read(path), name or path))

    def adopt(self, engine: Any, name: str | None = None) -> Engine:
        """Take a live ``ICudaEngine`` of NVIDIA's ``tensorrt`` or ``tensorrt_rtx``, and keep it alive.

        It must come from the same file as this runtime's library: ``Library(path)`` takes one. It logs to the logger
        that it was made with. Raises InvalidArgument for anything else.
        """
        if name is not None:
            check_text("name", name)
        return Engine._of(self, self._native.adopt(engine, name or ""))

    def take_log(self) -> list[tuple[str, str]]:
        """Return TensorRT's lines since the last call, (severity, text) each; the last 1000 at the most.

        Empty without ``log_severity``.
        """
        return self._native.take_log()


class Engine:
    """A network that was compiled for a GPU, to be asked about and to make contexts of.

    ``Engine(plan)`` loads a file or its bytes with a runtime of its own on ``device``; several engines share one with
    ``Runtime.load``. ``Engine(engine)`` takes a live ``ICudaEngine`` of NVIDIA's Python API, as ``Runtime.adopt`` does,
    with the library that has made it. Raises what those raise.
    """

    def __init__(
        self,
        plan: str | os.PathLike[str] | bytes | Any,
        *,
        device: str = "cuda:0",
        library: Library | None = None,
        name: str | None = None,
    ) -> None:
        official = type(plan).__name__ == "ICudaEngine"
        if not official and not isinstance(plan, _BYTES):
            plan = _path(plan)
        if official and library is None:
            library = Library(_tensorrt.library_of(plan))
        runtime = Runtime(library, device)
        made = runtime.adopt(plan, name) if official else runtime.load(plan, name)
        self._runtime = runtime
        self._native: _tensorrt.Engine = made._native

    @classmethod
    def _of(cls, runtime: Runtime, native: _tensorrt.Engine) -> Engine:
        engine = cls.__new__(cls)
        engine._runtime = runtime
        engine._native = native
        return engine

    @property
    def runtime(self) -> Runtime:
        """The runtime that it was made with."""
        return self._runtime

    @property
    def name(self) -> str:
        """As it was given, or the engine's own."""
        return self._native.name

    @property
    def tensors(self) -> list[TensorInfo]:
        """Inputs, then outputs, in TensorRT's order."""
        return self._native.tensors

    @property
    def profiles(self) -> int:
        """Number of optimization profiles; their shapes are in ``tensors``."""
        return self._native.profiles

    @property
    def layers(self) -> int:
        """Number of layers after TensorRT's optimization."""
        return self._native.layers

    @property
    def aux_streams(self) -> int:
        """Streams that TensorRT uses besides the one that is enqueued into."""
        return self._native.aux_streams

    @property
    def refittable(self) -> bool:
        """Whether weights can be replaced."""
        return self._native.refittable

    @property
    def data_dependent(self) -> bool:
        """Whether the shape of an output is known only when it is computed. False until there was a context."""
        return self._native.data_dependent

    @property
    def weights_bytes(self) -> int:
        """Device memory in bytes that the weights occupy; 0 for an engine that was adopted."""
        return self._native.weights_bytes

    @property
    def streamable_weights_bytes(self) -> int:
        """Weights that may be streamed from the host; 0 unless it was built for that."""
        return self._native.streamable_weights_bytes

    @property
    def weight_streaming_budget(self) -> int:
        """How many bytes of the streamable weights may lie on the GPU; to be set before there are contexts.

        Raises InvalidArgument (not built for it, contexts exist), EngineError.
        """
        return self._native.weight_streaming_budget

    @weight_streaming_budget.setter
    def weight_streaming_budget(self, size_bytes: int) -> None:
        check_int("weight_streaming_budget", size_bytes, 0)
        self._native.weight_streaming_budget = size_bytes

    def activation_bytes(self, profile: int | None = None) -> int:
        """Return the scratch memory that any shape of the profile needs at the most; of None: of any profile."""
        if profile is not None:
            check_int("profile", profile, 0, 2**31 - 1)
        return self._native.activation_bytes(-1 if profile is None else profile)

    def describe(self) -> str:
        """Return layers, formats and tactics as JSON, as far as the plan was built to tell. Raises EngineError."""
        return self._native.describe()

    def serialize(self) -> bytes:
        """Return the plan again. Raises EngineError. Without the GIL."""
        return self._native.serialize()

    def create_context(self, *, share_kernels: bool = True) -> ExecutionContext:
        """Make a context whose scratch memory its user brings.

        TensorRT for RTX compiles for the GPU here, up to seconds; ``share_kernels`` lets the engine's contexts share
        what is compiled. Blocks without the GIL. Raises EngineError, OutOfMemory.
        """
        check_flag("share_kernels", share_kernels)
        return ExecutionContext(self, self._native.create_context(share_kernels))


class ExecutionContext:
    """One execution at a time of an engine: shapes, addresses, scratch memory. Made by ``Engine.create_context``.

    Threads take turns. Addresses are not checked, as nobody can: the memory must be the GPU's (the host's for tensors
    that are ``on_host``), large enough, and stay until what was enqueued is done. Streams are cudaStream_t: an int,
    or an object with a ``handle`` (``trtlab.cuda.Stream``), ``ptr`` (CuPy) or ``cuda_stream`` (PyTorch); of the
    engine's GPU. Everything raises EngineError with TensorRT's own lines, NotFound for a tensor that there is not,
    and releases the GIL.
    """

    def __init__(self, engine: Engine, native: _tensorrt.ExecutionContext) -> None:
        self._engine = engine
        self._native = native

    @property
    def engine(self) -> Engine:
        """The engine that this is a context of."""
        return self._engine

    @property
    def profile(self) -> int:
        """The optimization profile in use."""
        return self._native.profile

    def set_profile(self, profile: int, stream: Any = 0) -> None:
        """Switch to another profile; all shapes are then to be set again. Raises InvalidArgument."""
        check_int("profile", profile, 0, 2**31 - 1)
        self._native.set_profile(profile, _stream(stream))

    def set_input_shape(self, tensor: str, shape: Sequence[int]) -> None:
        """Set the shape of an input.

        Raises InvalidArgument naming the tensor, the axis, what was got and the profile's min, best and max.
        """
        check_text("tensor", tensor)
        if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
            raise InvalidArgument(f"shape of '{tensor}': expected a sequence of ints, got {shown(shape)}")
        for extent in shape:
            check_int(f"shape of '{tensor}'", extent, 0)
        self._native.set_input_shape(tensor, list(shape))

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape as it follows from the inputs' shapes; -1 where they are not set, or values decide."""
        check_text("tensor", tensor)
        return self._native.shape(tensor)

    def infer_shapes(self) -> None:
        """Work the outputs' shapes out. Raises EngineError naming what is still to be set."""
        self._native.infer_shapes()

    def set_address(self, tensor: str, address: int) -> None:
        """Set where a tensor lies: an int, as ``ndarray.data.ptr`` or ``Tensor.data_ptr()`` gives it."""
        check_text("tensor", tensor)
        check_int(f"address of '{tensor}'", address, 0, _MOST_ADDRESS)
        self._native.set_address(tensor, address)

    def max_output_bytes(self, tensor: str) -> int:
        """Return the bytes at the most that an output takes for the shapes set."""
        check_text("tensor", tensor)
        return self._native.max_output_bytes(tensor)

    def activation_bytes(self) -> int:
        """Return the scratch memory in bytes that the shapes set need."""
        return self._native.activation_bytes()

    def set_activation_memory(self, address: int, size_bytes: int) -> None:
        """Set the scratch memory. Raises InvalidArgument if it is not aligned to 256 bytes."""
        check_int("address", address, 0, _MOST_ADDRESS)
        check_int("size_bytes", size_bytes, 0)
        self._native.set_activation_memory(address, size_bytes)

    def enqueue(self, stream: Any) -> None:
        """Put the computation into a stream, and return when the host's part is done."""
        self._native.enqueue(_stream(stream))

    def profile_layers(self, stream: Any = 0) -> list[tuple[str, float]]:
        """Run once with TensorRT's profiler; return (layer, milliseconds) each. Blocks until the GPU is done."""
        return self._native.profile_layers(_stream(stream))


def _default_library(builder: str | None = None) -> Library:
    return library(builder)


def _cudart() -> str:
    from trtlab import cuda

    return cuda.library().path


def _stream(stream: Any) -> int:
    for attribute in ("handle", "ptr", "cuda_stream"):
        if hasattr(stream, attribute):
            stream = getattr(stream, attribute)
            break
    check_int("stream", stream, 0, _MOST_ADDRESS)
    return int(stream)


def _bytes(plan: Any) -> bytes:
    try:
        return bytes(plan)
    except ValueError as error:  # a memoryview that was released
        raise InvalidArgument(f"the plan's bytes cannot be read: {error}") from None


def _path(plan: Any) -> str:
    try:
        path = os.fspath(plan)
    except TypeError:
        raise InvalidArgument(f"a plan: expected a path, or bytes, got a {type(plan).__name__}") from None
    if not isinstance(path, str) or "\0" in path:
        raise InvalidArgument(f"a plan: a path is a str without NUL, got {shown(path)}")
    return path


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"the plan '{path}' does not exist: expected a file that TensorRT's builder, or trtlab.build, has made"
        ) from None
    except OSError as error:
        raise InvalidArgument(f"the plan '{path}' can't be read: {error.strerror}") from None


def _after_fork() -> None:
    global _lock
    _libraries.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
