"""The CPU engine: OpenVINO, opened at run time from PyPI's ``openvino`` package (``pip install "trtlab[cpu]"``)."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtlab._bindings import _core
from trtlab._bindings._core import Model
from trtlab._bindings._openvino import Library, loader
from trtlab.errors import InvalidArgument
from trtlab.manager import MOST_EXECUTIONS, check_int, check_seconds, check_text, shown

__all__ = ["Library", "library", "load"]

_BYTES = (bytes, bytearray, memoryview)
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "auto": ""}

_library: Library | None = None
_lock = threading.Lock()


def _package_folders() -> list[str]:
    """Where PyPI's package keeps the shared library, found without importing it."""
    spec = importlib.util.find_spec("openvino")
    return [str(Path(folder) / "libs") for folder in (spec.submodule_search_locations or [])] if spec else []


def library() -> Library:
    """Return the process's OpenVINO library, opened at the first call.

    The environment variable TRTLAB_OPENVINO_LIBRARY names a file to use instead of the package's. Raises EngineError
    saying what was looked for and what to install.
    """
    global _library
    with _lock:
        if _library is None:
            _library = Library(directories=_package_folders())
        return _library


def load(
    manager: _core.InferenceManager,
    name: str,
    model: str | os.PathLike[str] | bytes,
    *,
    streams: int | None = None,
    threads: int | None = None,
    precision: str = "float32",
    weights: bytes | None = None,
    queue_timeout_s: float | None = 60.0,
    properties: Mapping[str, str] | None = None,
) -> Model:
    """Load into ``manager``; see ``InferenceManager.load``."""
    if not isinstance(precision, str) or precision not in _PRECISIONS:
        raise InvalidArgument(f"model '{name}': precision is one of {list(_PRECISIONS)}, got {shown(precision)}")
    for what, value in (("streams", streams), ("threads", threads)):
        if value is not None:
            check_int(f"model '{name}': {what}", value, 1, MOST_EXECUTIONS)
    source = _bytes(f"model '{name}'", model) if isinstance(model, _BYTES) else _path(name, model)
    if weights is not None and not isinstance(weights, _BYTES):
        raise InvalidArgument(f"model '{name}': weights are the bytes of the IR's .bin, got a {type(weights).__name__}")
    settings = properties if properties is not None else {}
    if not isinstance(settings, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in settings.items()
    ):
        raise InvalidArgument(f"model '{name}': properties map strings to strings, got {shown(properties)}")
    for key, setting in settings.items():
        check_text(f"model '{name}': properties", key)
        check_text(f"model '{name}': property {key!r}", setting)
    if queue_timeout_s is not None:
        check_seconds(f"model '{name}': queue_timeout_s", queue_timeout_s, ", or None to wait for ever")
    return manager.load(
        name,
        loader(
            library(),
            source,
            b"" if weights is None else _bytes(f"model '{name}': weights", weights),
            streams or 0,
            threads or 0,
            _PRECISIONS[precision],
            None if queue_timeout_s is None else float(queue_timeout_s),
            dict(settings),
        ),
    )


def _bytes(what: str, value: Any) -> bytes:
    try:
        return bytes(value)
    except ValueError as error:  # a memoryview that was released
        raise InvalidArgument(f"{what}: its bytes cannot be read: {error}") from None


def _path(name: str, model: str | os.PathLike[str]) -> str:
    try:
        path = os.fspath(model)
    except TypeError:
        raise InvalidArgument(
            f"model '{name}': expected a path or the model's bytes, got a {type(model).__name__}"
        ) from None
    if isinstance(path, bytes):
        raise InvalidArgument(f"model '{name}': a path is a str, not bytes")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise InvalidArgument(
            f"model '{name}': the path {path!r} cannot be passed on: expected UTF-8 without NUL; rename the file"
        )
    return path


def _after_fork() -> None:
    # What the parent has opened is refused here; what it has not, a child opens for itself.
    global _library, _lock
    _library = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
