"""The registry of models that share one budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType

from trtlab._bindings import _core
from trtlab._bindings._core import Model, usable_cpus
from trtlab.errors import InvalidArgument


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
        for name, value, least in (
            ("max_executions", max_executions, 1),
            ("max_buffers", max_buffers, 1),
            ("max_queue", max_queue, 0),
        ):
            if value is not None and (not isinstance(value, int) or value < least):
                raise InvalidArgument(f"{name} is an int of at least {least}, got {value!r}")
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
        devices = [device] if isinstance(device, str) or not isinstance(device, Sequence) else list(device)
        if len(devices) != 1 or devices[0] not in ("auto", "cpu"):
            raise InvalidArgument(
                f"model '{name}': device {device!r} is not available in this version: use 'auto' or 'cpu'"
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
        return self._native.register(name, model)

    def model(self, name: str) -> Model:
        """Return the model called ``name``. Raises NotFound, listing the names there are; Closed."""
        return self._native.model(name)

    def __getitem__(self, name: str) -> Model:
        return self._native.model(name)

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
        self._native.unload(name, cancel_pending)

    def stats(self) -> dict[str, int]:
        """Return the budget's limits and what of it is in use now."""
        return self._native.stats()

    def close(self, cancel_pending: bool = False) -> None:
        """Close every model as ``unload`` does, and refuse new ones. Idempotent."""
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
