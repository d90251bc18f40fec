"""The model that is measured: loaded anew for every setting, since a manager's limits are fixed when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trtlab._bindings._core import Model
from trtlab.bench import BenchReport, InferBench
from trtlab.errors import Error, InvalidArgument, OutOfMemory
from trtlab.manager import InferenceManager, shown
from trtlab.tuning.measurement import DeviceTimes, Measurement, Setting

__all__ = ["Inputs", "Subject"]

Inputs = Callable[[Model, int], Mapping[str, Any]]
"""Makes what a request of so many inferences carries."""

NO_BOUND = 2**63 - 1


class Subject:
    """A model file that can be measured with one setting after the other.

    ``inputs`` makes a request's inputs for a batch, and may look at the model's spec for that; ``options`` are those of
    ``InferenceManager.load``, but for what a setting says. Loads the model once, to see what it is; raises as ``load``
    does.
    """

    def __init__(self, file: Path, inputs: Inputs, *, duration_s: float, warm_up_s: float, **options: Any) -> None:
        if not isinstance(options.get("device", "auto"), str):
            raise InvalidArgument(f"device: one is measured at a time, got {shown(options['device'])}")
        self._file, self._inputs, self._options = file, inputs, options
        self._duration_s, self._warm_up_s = duration_s, warm_up_s
        self._arrays: tuple[int, Mapping[str, Any]] | None = None
        self.last_error: Error | None = None
        with InferenceManager(max_executions=1, max_buffers=1) as manager:
            # Closed when this block is left; what it says of itself stays.
            self.model = manager.load(file.stem, file, **{**options, "warm_up": []})
        self.on_gpu = self.model.platform.startswith("tensorrt")

    @property
    def copy_engines(self) -> int:
        """Copies that the GPU makes at the same time."""
        from trtlab import cuda

        device = self._options.get("device", "auto")
        return cuda.device("cuda" if device == "auto" else device).copy_engines

    def batches(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of the batches that the model takes; the one that it fixes, if it does.

        Raises InvalidArgument if none is left.
        """
        most, inputs = self.model.max_batch_size, self.model.inputs
        if most == 0:
            return (1,)
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        if isinstance(first, int):
            return (first,)
        least = first[0] if isinstance(first, tuple) else 1
        taken = tuple(batch for batch in wanted if least <= batch <= most)
        if not taken:
            expected = f"{least} and more" if most == NO_BOUND else f"{least} to {most}"
            raise InvalidArgument(f"batches: model '{self.model.name}' takes {expected}, got {shown(list(wanted))}")
        return taken

    def arrays(self, batch: int) -> Mapping[str, Any]:
        """Return a request's inputs, those of the last call if it was for the same batch."""
        if self._arrays is None or self._arrays[0] != batch:
            self._arrays = None  # before others are made: they may be large
            self._arrays = (batch, self._inputs(self.model, batch))
        return self._arrays[1]

    def measure(self, setting: Setting, *, timing: bool = False) -> Measurement:
        """Load with this setting, put under load, unload. ``timing``: have the GPU time copies and computation.

        What the engine refuses or can't hold is in the measurement, and in ``last_error``. Blocks for loading, warm-up
        and duration.
        """
        self.last_error = None
        try:
            return self._measure(setting, timing)
        except Error as error:
            self.last_error = error
            return Measurement(setting, error=str(error), out_of_memory=isinstance(error, OutOfMemory))

    def _measure(self, setting: Setting, timing: bool) -> Measurement:
        arrays = self.arrays(setting.batch)
        options = dict(self._options)
        if self.on_gpu:
            shapes = {name: tuple(array.shape) for name, array in arrays.items() if hasattr(array, "shape")}
            complete = len(shapes) == len(arrays)
            warm_up = [shapes] if complete else None
            options |= {"graphs": setting.graphs is not False, "timing": timing, "warm_up": warm_up}
        if setting.streams is not None:
            options["streams"] = setting.streams
        manager = InferenceManager(max_executions=setting.executions, max_buffers=setting.buffers)
        try:
            model = manager.load(self.model.name, self._file, **options)
            answer = model.infer(arrays).result()
            output_bytes = sum(tensor.nbytes for tensor in answer.values() if not tensor.device.startswith("cuda:"))
            del answer
            report = InferBench(model, arrays).run(
                concurrency=setting.buffers,
                duration_s=self._duration_s,
                warm_up_s=self._warm_up_s,
                batch=setting.batch,
            )
            memory: dict[str, int] = {}
            for use in manager.memory_report():
                memory[use.device] = memory.get(use.device, 0) + use.size_bytes
            return _measurement(setting, report, memory, _host_bytes(arrays), output_bytes)
        finally:
            manager.close(cancel_pending=True)


def _measurement(
    setting: Setting, report: BenchReport, memory: dict[str, int], input_bytes: int, output_bytes: int
) -> Measurement:
    return Measurement(
        setting,
        requests_per_second=report.requests_per_second,
        inferences_per_second=report.inferences_per_second,
        p50_us=report.latency.p50_us,
        p99_us=report.latency.p99_us,
        input_us=report.breakdown_us["input"],
        cpus_busy=report.cpu_s / report.elapsed_s if report.elapsed_s else 0.0,
        memory_bytes=memory,
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        device=None if report.device_us is None else _times(report.device_us),
        error=report.first_error,
    )


def _times(device_us: Mapping[str, float]) -> DeviceTimes:
    return DeviceTimes(**{f"{part}_us": device_us[part] for part in ("enqueue", "h2d", "compute", "d2h")})


def _host_bytes(arrays: Mapping[str, Any]) -> int:
    """Bytes of the inputs that lie on the host, as far as they tell."""
    return sum(
        getattr(array, "nbytes", 0) for array in arrays.values() if not hasattr(array, "__cuda_array_interface__")
    )
