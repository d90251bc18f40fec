"""Compute capabilities: which GPU a plan is for, and which one is here."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trtlab.errors import CudaError, EngineError, InvalidArgument
from trtlab.manager import shown

__all__ = ["Gpu", "current_gpu", "gpu", "parse_capability", "runs_on"]

_TEXT = re.compile(r"([0-9]{1,2})\.([0-9])")


def parse_capability(value: Any) -> str:
    """Return "9.0" for "9.0" or (9, 0). Raises InvalidArgument."""
    if isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value):
        value = f"{value[0]}.{value[1]}"
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(f"compute_capability: expected one like '9.0' or (9, 0), got {shown(value)}")
    return f"{int(match[1])}.{match[2]}"


def numbers(capability: str) -> tuple[int, int]:
    """Return (9, 0) for "9.0", and for "9.0+"."""
    major, minor = capability.rstrip("+").split(".")
    return int(major), int(minor)


def runs_on(built_for: tuple[str, ...], capability: str) -> bool:
    """Whether a plan built for these ("8.6"; "8.0+" is from there on) runs on a GPU of that capability."""
    here = numbers(capability)
    return any(here >= numbers(text) if text.endswith("+") else here == numbers(text) for text in built_for)


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may see: CUDA's ordinal, name and compute capability."""

    ordinal: int
    name: str
    capability: str


def _cuda() -> Any:
    try:
        from trtlab import cuda
    except ImportError as error:
        raise EngineError(f"no GPU: this trtlab was built without its part for CUDA: {error}") from None
    return cuda


def _runtime(path: str) -> Any:
    """Return CUDA's runtime, which is open already, for what ``trtlab.cuda`` has no need of."""
    return ctypes.CDLL(path)


def gpu(device: Any = None) -> Gpu:
    """Return the GPU called ``device``: "cuda:1", "cuda", "cuda:GPU-<uuid>", 1; None is the first.

    Raises NotFound without that GPU, saying why; EngineError without CUDA's runtime; InvalidArgument for anything else.
    """
    if type(device) is int and device >= 0:
        device = f"cuda:{device}"
    if device is not None and not isinstance(device, str):
        raise InvalidArgument(f"device: expected 'cuda:0' or 0, got {shown(device)}")
    found = _cuda().device(device or "cuda")
    return Gpu(found.ordinal, found.name, parse_capability(tuple(found.compute_capability)))


@contextmanager
def current_gpu(found: Gpu) -> Iterator[None]:
    """Make a GPU this thread's current one for the length of the block: TensorRT builds for that."""
    runtime = _runtime(_cuda().library().path)
    before = ctypes.c_int()
    _call(runtime.cudaGetDevice, ctypes.byref(before))
    _call(runtime.cudaSetDevice, found.ordinal)
    try:
        yield
    finally:
        runtime.cudaSetDevice(before.value)


def _call(function: Any, *arguments: Any) -> None:
    status = function(*arguments)
    if status:
        raise CudaError(f"{function.__name__} answers {status}")
