"""What is set, and what was measured with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DeviceTimes", "Measurement", "Setting"]


@dataclass(frozen=True)
class Setting:
    """How a model is asked and loaded. As many requests are outstanding as there are buffers."""

    batch: int
    executions: int  #: requests that execute at the same time
    buffers: int  #: requests staged or executing
    graphs: bool | None = None  #: whether CUDA graphs are replayed; None on the CPU
    streams: int | None = None  #: the CPU engine's; None: as many as executions

    @property
    def lone(self) -> bool:
        """Whether one request is under way at a time: nothing waits for anything else then."""
        return self.buffers == 1

    def order(self) -> tuple[int, ...]:
        """Return what settings are sorted by; those that need less come first."""
        return (
            self.batch,
            self.executions,
            self.buffers,
            -1 if self.graphs is None else 1 - self.graphs,
            self.streams or 0,
        )

    def __str__(self) -> str:
        parts = [f"batch {self.batch}", f"{self.executions} executions", f"{self.buffers} buffers"]
        if self.graphs is not None:
            parts.append("graphs" if self.graphs else "no graphs")
        if self.streams is not None:
            parts.append(f"{self.streams} streams")
        return ", ".join(parts)


@dataclass(frozen=True)
class DeviceTimes:
    """Means of one request in microseconds, under trtexec's names; as in ``trtlab.bench.BenchReport.device_us``."""

    enqueue_us: float  #: the host's part of a launch
    h2d_us: float
    compute_us: float
    d2h_us: float


@dataclass(frozen=True)
class Measurement:
    """What one setting brought. With an ``error`` the figures mean nothing."""

    setting: Setting
    requests_per_second: float = 0.0
    inferences_per_second: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    input_us: float = 0.0  #: of a request: binding its inputs, or copying them into pinned memory
    cpus_busy: float = 0.0  #: of the whole process
    memory_bytes: Mapping[str, int] = field(default_factory=dict)  #: by device: "cuda:0", "cuda_host", ...
    input_bytes: int = 0  #: of a request, that are copied to the GPU
    output_bytes: int = 0  #: of a request, that are copied to the host
    device: DeviceTimes | None = None  #: where a GPU was asked to time
    error: str | None = None
    out_of_memory: bool = False

    @property
    def usable(self) -> bool:
        """Whether it is a figure: no error, and something was answered."""
        figures = [value for value in vars(self).values() if isinstance(value, float)]
        if self.device is not None:
            figures += dataclasses.astuple(self.device)
        sensible = all(math.isfinite(value) and value >= 0 for value in figures)
        return self.error is None and sensible and self.requests_per_second > 0 and self.inferences_per_second > 0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as built-in types, for JSON."""
        return {**dataclasses.asdict(self), "memory_bytes": dict(self.memory_bytes)}
