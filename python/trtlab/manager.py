"""The registry of models that share one budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from types import TracebackType
from typing import Any

from trtlab._bindings import _core
from trtlab._bindings._core import Model, usable_cpus
from trtlab.errors import InvalidArgument

# Beyond what any machine executes side by side, and below where the engine's tables for it would not fit the memory.
MOST_EXECUTIONS = 1_000_000


def shown(value: object) -> str:
    """Return ``repr(value)`` for a message: never long, and never an error of its own."""
    try:
        text = repr(value)
    except Exception:  # an int of too many digits, or a foreign object's own __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_int(what: str, value: Any, least: int, most: int = 2**63 - 1) -> None:
    """Raise InvalidArgument unless ``value`` is an int from ``least`` to ``most``."""
    if not isinstance(value, int) or not least <= value <= most:
        limit = f" and at most {most}" if most < 2**63 - 1 or isinstance(value, int) and value > most else ""
        raise InvalidArgument(f"{what}: expected an int of at least {least}{limit}, got {shown(value)}")


def check_seconds(what: str, value: Any, or_none: str = "") -> None:
    """Raise InvalidArgument unless ``value`` is a number of seconds, from 0 to a century."""
    is_number = isinstance(value, Real)
    if not is_number or not 0 <= value < 3e9:
        raise InvalidArgument(f"{what}: expected a number of seconds >= 0 and below 3e9{or_none}, got {shown(value)}")


def check_text(what: str, value: Any) -> None:
    """Raise InvalidArgument unless ``value`` is a str that UTF-8 can say."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what}: expected a str, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: expected a str that UTF-8 can encode, got {shown(value)}") from None


def _check_flag(what: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what}: expected True or False, got {shown(value)}")


class InferenceManager:
    """Named models that share one budget of execution tokens and IO buffers, and one bounded queue.

    ``max_executions`` requests execute at the same time (None: 2, or a quarter of the usable CPUs if that is more),
    ``max_buffers`` are staged or executing (None: twice as many), ``max_queue`` wait for a buffer. Beyond that
    ``infer`` waits, and then raises Overloaded. Requests are served in order of arrival, whatever their model.

    A context manager: leaving the block closes it. All members may be called from any thread.
    """

    def __init__(
        self, max_executions: int | None = None, max_buffers: int | None = None, max_queue: int = 1024
    ) -> None:
        for name, value in (("max_executions", max_executions), ("max_buffers", max_buffers)):
            if value is not None:
                check_int(name, value, 1, MOST_EXECUTIONS)
        check_int("max_queue", max_queue, 0)
        executions = _core.default_executions(usable_cpus()) if max_executions is None else max_executions
        self._native = _core.InferenceManager(executions, max_buffers or 0, max_queue)

    def load(
        self,
        name: str,
        model: str | os.PathLike[str] | bytes,
        *,
        device: str | Sequence[str] = "auto",
        streams: int | None = None,
        threads: int | None = None,
        precision: str = "float32",
        weights: bytes | None = None,
        queue_timeout_s: float | None = 60.0,
        properties: Mapping[str, str] | None = None,
    ) -> Model:
        """Load a model file (ONNX or OpenVINO IR), or its bytes, and register it under ``name``.

        ``device``: "cpu", or "auto" for the best there is. ``streams``: requests computed side by side (None: the
        manager's executions), ``threads``: of all streams together (None: the usable CPUs). ``precision``: what
        float32 is computed in, "float32", "bfloat16", "float16", or "auto" for the engine's own choice. ``weights``:
        the IR's .bin if ``model`` is bytes of an IR. ``queue_timeout_s``: how long ``infer`` waits for room in a full
        queue. ``properties``: the engine's own settings, over all of these.

        Blocks until the model is ready, without the GIL. Raises NotFound (no such file), InvalidArgument (name taken,
        not a model, bad argument), EngineError (no engine, or it refuses the model), Closed.
        """
        check_text("the model's name", name)
        devices = [device] if isinstance(device, str) or not isinstance(device, Sequence) else list(device)
        if len(devices) != 1 or not isinstance(devices[0], str) or devices[0] not in ("auto", "cpu"):
            raise InvalidArgument(
                f"model '{name}': device {shown(device)} is not available in this version: use 'auto' or 'cpu'"
            )
        from trtlab import openvino

        return openvino.load(
            self._native,
            name,
            model,
            streams=streams,
            threads=threads,
            precision=precision,
            weights=weights,
            queue_timeout_s=queue_timeout_s,
            properties=properties,
        )

    def register(self, name: str, model: Model) -> Model:
        """Register a model that exists, and return it. Raises InvalidArgument if the name is taken, Closed."""
        check_text("the model's name", name)
        return self._native.register(name, model)

    def model(self, name: str) -> Model:
        """Return the model called ``name``. Raises NotFound, listing the names there are; Closed."""
        check_text("the model's name", name)
        return self._native.model(name)

    def __getitem__(self, name: str) -> Model:
        return self.model(name)

    def __contains__(self, name: object) -> bool:
        return name in self._native.names()

    @property
    def names(self) -> list[str]:
        """Names of the models that can be asked, sorted."""
        return self._native.names()

    def unload(self, name: str, cancel_pending: bool = False) -> None:
        """Take a model out and close it; requests accepted before finish, or fail with Closed if they have not begun.

        Blocks until they are done, without the GIL. Raises NotFound.
        """
        check_text("the model's name", name)
        _check_flag("cancel_pending", cancel_pending)
        self._native.unload(name, cancel_pending)

    def stats(self) -> dict[str, int]:
        """Return the budget's limits and what of it is in use now."""
        return self._native.stats()

    def close(self, cancel_pending: bool = False) -> None:
        """Close every model as ``unload`` does, and refuse new ones. Idempotent."""
        _check_flag("cancel_pending", cancel_pending)
        self._native.close(cancel_pending)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._native.closed

    def __enter__(self) -> InferenceManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<trtlab.InferenceManager {self.names}>"
