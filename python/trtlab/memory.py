"""Memory: where blocks come from, what stands in between, and what other processes see of it.

    resource = memory.TrackedMemory(memory.LimitedMemory(memory.HostMemory("transparent_huge"), size_bytes=1 << 30))
    with memory.allocate(resource, (1000, 1000), "float32") as scratch:
        array = scratch.numpy()              # the same memory, as memoryview(scratch) and DLPack see it
    resource.snapshot()["peak_bytes"]

A ``MemoryResource`` is memory of the host, of a GPU (``trtlab.cuda.Memory``), or another resource that stands on one
and keeps it. Buffers keep their resource. Whatever may wait or takes long is done without the GIL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtlab._bindings import _core
from trtlab._bindings._core import (
    Buffer,
    DebugMemory,
    HostMemory,
    LimitedMemory,
    MemoryResource,
    SharedMemory,
    SystemVMemory,
    TrackedMemory,
    huge_page_bytes,
    page_placement,
    receive_descriptor,
    send_descriptor,
)
from trtlab._layout import check_whole, dtype_name, extents_of
from trtlab.errors import InvalidArgument

__all__ = [
    "Buffer",
    "DebugMemory",
    "HostMemory",
    "LimitedMemory",
    "MemoryResource",
    "SharedMemory",
    "SystemVMemory",
    "TrackedMemory",
    "allocate",
    "huge_page_bytes",
    "page_placement",
    "receive_descriptor",
    "send_descriptor",
]


def allocate(
    resource: MemoryResource, shape: int | Sequence[int], dtype: Any = "uint8", *, alignment: int = 256
) -> Buffer:
    """Return a buffer of ``resource``, uninitialised: so many bytes, or a dense array of ``shape`` and ``dtype``.

    ``dtype`` as numpy takes it, or "bfloat16" and "float8_e4m3fn" with the package ml_dtypes. ``alignment`` in bytes, a
    power of two. May block, without the GIL. Raises OutOfMemory (how much, of whom), InvalidArgument.
    """
    if not isinstance(resource, MemoryResource):
        raise InvalidArgument(f"an allocation: expected a MemoryResource, got a {type(resource).__name__}")
    check_whole("alignment", alignment, 1, 2**62)
    name = "uint8" if isinstance(dtype, str) and dtype == "uint8" else dtype_name(dtype)
    return _core.allocate(resource, name, extents_of(shape), alignment)
