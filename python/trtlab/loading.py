"""Which engine loads a model, and with what: `InferenceManager.load` looks here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtlab._bindings import _core
from trtlab._bindings._core import Model
from trtlab.errors import Error, InvalidArgument
from trtlab.manager import check_flag, check_int, check_seconds, check_text, shown

__all__ = ["GpuOptions", "load"]

PLAN_SUFFIXES = (".plan", ".engine", ".trt")
_BYTES = (bytes, bytearray, memoryview)
_MOST_GRAPHS = 1_000_000


@dataclass(frozen=True)
class GpuOptions:
    """What only an engine on a GPU is asked for; see ``InferenceManager.load``."""

    outputs: str = "host"
    graphs: bool = True
    max_graphs: int = 128
    warm_up: Sequence[Mapping[str, Sequence[int]]] | None = None
    profiles: Any = None
    weights: str = "device"
    weight_streaming_budget: int | None = None
    timing: bool = False
    public_keys: Sequence[Any] = ()
    require_signature: bool = False
    host_code_allowed: bool = False

    def check(self, what: str) -> None:
        """Raise InvalidArgument, beginning with ``what``, unless every option is what it must be."""
        for name, given, choices in (
            ("outputs", self.outputs, ("host", "device")),
            ("weights", self.weights, ("device", "managed")),
        ):
            if given not in choices:
                raise InvalidArgument(f"{what}: {name} is one of {list(choices)} on a GPU, got {shown(given)}")
        for name in ("graphs", "timing", "require_signature", "host_code_allowed"):
            check_flag(f"{what}: {name}", getattr(self, name))
        check_int(f"{what}: max_graphs", self.max_graphs, 1, _MOST_GRAPHS)
        if self.weight_streaming_budget is not None:
            check_int(f"{what}: weight_streaming_budget", self.weight_streaming_budget, 0)

    def shapes(self, what: str) -> list[dict[str, Sequence[int]]]:
        """Return the shapes to warm up, as lists. Raises InvalidArgument."""
        expected = f"{what}: warm_up is a sequence of mappings of input names to shapes, or None"
        if self.warm_up is None:
            return []
        if isinstance(self.warm_up, (str, bytes, Mapping)) or not isinstance(self.warm_up, Sequence):
            raise InvalidArgument(f"{expected}, got {shown(self.warm_up)}")
        sets: list[dict[str, Sequence[int]]] = []
        for shapes in self.warm_up:
            if not isinstance(shapes, Mapping):
                raise InvalidArgument(f"{expected}, got {shown(shapes)} in it")
            named: dict[str, Sequence[int]] = {}
            for name, shape in shapes.items():
                check_text(expected, name)
                if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
                    raise InvalidArgument(f"{what}: warm_up of input '{name}': expected a shape, got {shown(shape)}")
                for extent in shape:
                    check_int(f"{what}: warm_up of input '{name}'", extent, 0)
                named[name] = list(shape)
            sets.append(named)
        return sets


def load(
    manager: _core.InferenceManager,
    name: str,
    model: str | os.PathLike[str] | bytes,
    *,
    device: str | Sequence[str],
    streams: int | None,
    threads: int | None,
    precision: str,
    weights: bytes | str | None,
    queue_timeout_s: float | None,
    properties: Mapping[str, str] | None,
    gpu: GpuOptions,
) -> Model:
    """Load into ``manager``; see ``InferenceManager.load``."""
    devices = _devices(name, device, model)
    if queue_timeout_s is not None:
        check_seconds(f"model '{name}': queue_timeout_s", queue_timeout_s, ", or None to wait for ever")
    if devices == ["cpu"]:
        from trtlab import openvino

        if isinstance(weights, str):
            raise InvalidArgument(
                f"model '{name}': weights={shown(weights)} is for GPUs; on the CPU, weights are the bytes of the IR's "
                ".bin, or None"
            )
        return openvino.load(
            manager,
            name,
            model,
            streams=streams,
            threads=threads,
            precision=precision,
            weights=weights,
            queue_timeout_s=queue_timeout_s,
            properties=properties,
        )
    return _load_on_gpu(manager, name, model, devices, precision, queue_timeout_s, gpu)


def _devices(name: str, device: Any, model: Any) -> list[str]:
    wanted = [device] if isinstance(device, str) or not isinstance(device, Sequence) else list(device)
    expected = "'auto', 'cpu', 'cuda', 'cuda:0', 'cuda:GPU-<uuid>', or a list of GPUs"
    for one in wanted:
        if not isinstance(one, str) or not (one in ("auto", "cpu", "cuda") or one.startswith("cuda:")):
            raise InvalidArgument(f"model '{name}': device: expected {expected}, got {shown(device)}")
    if not wanted or (len(wanted) > 1 and not all(one.startswith("cuda") for one in wanted)):
        raise InvalidArgument(f"model '{name}': device: expected {expected}, got {shown(device)}")
    return ["cuda" if _belongs_on_gpu(model) else "cpu"] if wanted == ["auto"] else wanted


def _belongs_on_gpu(model: Any) -> bool:
    """Whether "auto" is a GPU: for a plan always, for an ONNX file where there are a GPU and a builder."""
    if isinstance(model, _BYTES):
        return False
    suffix = Path(str(model)).suffix.lower()
    if suffix in PLAN_SUFFIXES:
        return True
    if suffix != ".onnx" or not any(importlib.util.find_spec(builder) for builder in ("tensorrt", "tensorrt_rtx")):
        return False
    try:
        from trtlab import cuda, tensorrt

        return cuda.device_count() > 0 and tensorrt.library() is not None
    except (Error, ImportError):  # no runtime, no library; or a build of trtlab without these layers
        return False


def _load_on_gpu(
    manager: _core.InferenceManager,
    name: str,
    model: str | os.PathLike[str] | bytes,
    devices: list[str],
    precision: str,
    queue_timeout_s: float | None,
    options: GpuOptions,
) -> Model:
    from trtlab import cuda
    from trtlab._bindings._tensorrt import loader

    what = f"model '{name}'"
    options.check(what)
    shapes = options.shapes(what)
    found = [cuda.device(one) for one in devices]  # before anything is built: NotFound says why there is none
    library, plan = _plan(what, model, found, precision, options)
    return manager.load(
        name,
        loader(
            library=library,
            cudart=cuda.library().path,
            devices=[str(one) for one in found],
            plan=plan,
            outputs_on_device=options.outputs == "device",
            graphs=options.graphs,
            max_graphs=options.max_graphs,
            warm_up=shapes,
            skip_warm_up=options.warm_up is not None and not shapes,
            managed_weights=options.weights == "managed",
            weight_streaming_budget=options.weight_streaming_budget,
            timing=options.timing,
            host_code_allowed=options.host_code_allowed,
            queue_timeout_s=None if queue_timeout_s is None else float(queue_timeout_s),
        ),
    )


def _plan(what: str, model: Any, devices: list[Any], precision: str, options: GpuOptions) -> tuple[Any, bytes]:
    """Return the library that is to load the plan, and the plan's bytes, checked against its manifest."""
    from trtlab import plans, tensorrt

    if isinstance(model, _BYTES):
        if options.require_signature or plans.signatures_required():
            raise InvalidArgument(
                f"{what}: plans must be signed here, and bytes come without a manifest: load the plan from its file"
            )
        return tensorrt.library(), bytes(model)
    path = Path(_path(what, model))
    if path.suffix.lower() == ".onnx":
        library = tensorrt.library()
        path = plans.plan_for(
            path,
            profiles=options.profiles,
            precision=precision,
            library=library.builder,
            library_version=library.version,
            # TensorRT builds on the GPU; what TensorRT-RTX builds is compiled for it when it is loaded.
            device=None if library.builder == "tensorrt_rtx" else str(devices[0]),
        )
        data, _ = plans.verify(path, library_flavour=library.builder, library_version=library.version)
        return library, data
    data, manifest = plans.verify(path, public_keys=options.public_keys, require_signature=options.require_signature)
    library = tensorrt.library(None if manifest is None else manifest.library_flavour)
    if manifest is not None:
        plans.check_fit(path, manifest, library.builder, library.version, [one.compute_capability for one in devices])
    return library, data


def _path(what: str, model: Any) -> str:
    try:
        path = os.fspath(model)
    except TypeError:
        raise InvalidArgument(f"{what}: expected a path or the model's bytes, got a {type(model).__name__}") from None
    if not isinstance(path, str) or "\0" in path:
        raise InvalidArgument(f"{what}: a path is a str without NUL, got {shown(path)}")
    return path
