"""The registry of models that share a budget for each device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def check_flag(what: str, value: Any) -> None:
    """Raise InvalidArgument unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what}: expected True or False, got {shown(value)}")


@dataclass(frozen=True)
class MemoryUse:
    """One line of a memory report: who holds how much of what."""

    owner: str  #: a model's name, or what several share: "execution tokens of cuda:0"
    what: str  #: "weights", "activations", "inputs and outputs", ...
    device: str  #: "cpu", "cuda:0", "cuda_host" (pinned), "cuda_managed:0"
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.owner}: {self.size_bytes:,} bytes of {self.what} on {self.device}"


class InferenceManager:
    """Named models that share, on each device, one budget of execution tokens and IO buffers, and one bounded queue.

    On a device, ``max_executions`` requests execute at the same time (None: 2, or a quarter of the usable CPUs if that
    is more), ``max_buffers`` are staged or executing (None: twice as many), ``max_queue`` wait for a buffer. Beyond
    that ``infer`` waits, and then raises Overloaded. Requests are served in order of arrival, whatever their model.

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
        queue_timeout_s: float | None = 60.0,
        precision: str = "float32",
        weights: bytes | str | None = None,
        streams: int | None = None,
        threads: int | None = None,
        properties: Mapping[str, str] | None = None,
        outputs: str = "host",
        graphs: bool = True,
        max_graphs: int = 128,
        warm_up: Sequence[Mapping[str, Sequence[int]]] | None = None,
        profiles: Any = None,
        weight_streaming_budget: int | None = None,
        timing: bool = False,
        public_keys: Sequence[Any] = (),
        require_signature: bool = False,
        host_code_allowed: bool = False,
    ) -> Model:
        """Load a model file (ONNX, OpenVINO IR, TensorRT plan), or its bytes, and register it under ``name``.

        ``device``: "cpu" (OpenVINO), "cuda" or "cuda:1" or "cuda:GPU-<uuid>" (TensorRT), or a list of GPUs: the model
        is then loaded onto each, and a request goes to the one with the fewest under way. "auto": a plan goes to the
        first GPU, ONNX too if there are a GPU and NVIDIA's builder, everything else to the CPU; what is said of the
        other kind of device is then ignored. Bytes are a model for the CPU unless ``device`` says otherwise, and a plan
        there. ONNX on a GPU is built first, or found in the cache (``trtlab.build``).

        ``queue_timeout_s``: how long ``infer`` waits for room in a full queue. ``precision``: what float32 is computed
        in: "float32", "bfloat16", "float16", or "auto" for the engine's own choice; a plan has chosen already.

        On the CPU. ``streams``: requests computed side by side (None: the manager's executions), ``threads``: of all
        streams together (None: the usable CPUs). ``weights``: the IR's .bin if ``model`` is bytes of an IR.
        ``properties``: the engine's own settings, over all of these.

        On a GPU. ``outputs``: where answers lie, "host", or "device" for the GPU's memory. ``graphs``: replay CUDA
        graphs, up to ``max_graphs`` of them. ``warm_up``: shapes to run before the model is ready, as
        ``[{"data": (8, 3, 224, 224)}]``; None is the static ones or every profile's optimum, an empty list none.
        ``profiles``: of an ONNX file with axes of no fixed size, as ``trtlab.build`` takes them. ``weights``: "device",
        or "managed" for memory that moves between GPU and host, so that more models fit (``Model.evict``,
        ``Model.prefetch``). ``weight_streaming_budget``: bytes of weights that stay on the GPU, of a plan built for it.
        ``timing``: have the GPU time copies and computation (``Model.stats``). ``public_keys``, ``require_signature``:
        whose plans are loaded, as ``trtlab.plans.verify`` takes them. ``host_code_allowed``: run code that a plan
        brings for the host; only for plans that are trusted.

        Blocks until the model is ready, without the GIL. Raises NotFound (no such file, no such GPU), InvalidArgument
        (name taken, not a model, bad argument, a plan that was changed), EngineError (no engine, or it refuses the
        model; a plan for another version or GPU), OutOfMemory, CudaError, Closed.
        """
        check_text("the model's name", name)
        from trtlab import loading

        return loading.load(
            self._native,
            name,
            model,
            device=device,
            streams=streams,
            threads=threads,
            precision=precision,
            weights=weights,
            queue_timeout_s=queue_timeout_s,
            properties=properties,
            gpu=loading.GpuOptions(
                outputs=outputs,
                graphs=graphs,
                max_graphs=max_graphs,
                warm_up=warm_up,
                profiles=profiles,
                weights=weights if isinstance(weights, str) else "device",
                weight_streaming_budget=weight_streaming_budget,
                timing=timing,
                public_keys=public_keys,
                require_signature=require_signature,
                host_code_allowed=host_code_allowed,
            ),
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
        check_flag("cancel_pending", cancel_pending)
        self._native.unload(name, cancel_pending)

    def stats(self) -> dict[str, Any]:
        """Return what of the budgets is in use now, the sums of all devices, and the limits, which are each device's.

        ``stats()["devices"]`` has the same for every device that models were loaded for: {"cuda:0": {...}, ...}.
        """
        return self._native.stats()

    def memory_report(self) -> list[MemoryUse]:
        """Return who holds how much memory of what, sorted by owner.

        That is every model for itself, once however many names it has, and what the models of a device share. Engines
        that do not account for their memory (OpenVINO, functions) are not in it. Releases the GIL.
        """
        return self._native.memory_report()

    def close(self, cancel_pending: bool = False) -> None:
        """Close every model as ``unload`` does, and refuse new ones. Idempotent."""
        check_flag("cancel_pending", cancel_pending)
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
