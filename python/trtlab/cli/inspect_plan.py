"""What ``trtlab inspect`` says of a plan: on a GPU what its engine says, elsewhere what manifest and library say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtlab import plans
from trtlab.cli import terminal
from trtlab.cli.loading import shape_text
from trtlab.errors import EngineError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from trtlab.tensorrt import Engine, Library, TensorInfo

Shape = tuple[int, ...]


def inspect_plan(file: Path, device: str, *, layers: bool, layer_times: bool, as_json: bool) -> None:
    """Print what is known of the plan. ``device``: "auto" does without a GPU where there is none.

    Raises what ``InferenceManager.load`` would for a plan that cannot be loaded.
    """
    data, manifest = plans.verify(file)
    found: dict[str, Any] = {"file": str(file), "size_bytes": len(data), "platform": None, "device": None}
    try:
        gpu = _gpu(device)
    except (NotFound, EngineError) as error:
        if device != "auto" or layers or layer_times:
            raise
        found |= {"why_no_device": str(error), "library": _without_gpu(file, data, manifest)}
        found["manifest"] = None if manifest is None else manifest.as_dict()
        if as_json:
            terminal.print_json(found)
        else:
            _print_manifest(found, manifest)
        return
    engine, library = _engine(file, data, manifest, gpu)
    found |= _engine_json(engine, library, gpu, manifest)
    if layers:
        found["description"] = _description(engine)
    if layer_times:
        found["layer_times"] = [{"layer": name, "time_us": ms * 1e3} for name, ms in _layer_times(engine, str(gpu))]
    if as_json:
        terminal.print_json(found)
    else:
        _print_engine(found, engine, manifest)


def _gpu(device: str) -> Any:
    from trtlab import cuda

    return cuda.device("cuda" if device == "auto" else device)


def _engine(file: Path, data: bytes, manifest: plans.Manifest | None, gpu: Any) -> tuple[Engine, Library]:
    from trtlab import tensorrt

    library = tensorrt.library(None if manifest is None else manifest.library_flavour)
    if manifest is not None:
        plans.check_fit(file, manifest, library.builder, library.version, [gpu.compute_capability])
    return tensorrt.Engine(data, device=str(gpu), library=library, name=str(file)), library


def _without_gpu(file: Path, data: bytes, manifest: plans.Manifest | None) -> dict[str, Any]:
    """Return which library would load the plan, and what it says of it: without a driver only TensorRT for RTX does."""
    from trtlab import tensorrt

    found: dict[str, Any] = {"name": None, "fits": None, "says": None}
    try:
        library = tensorrt.library(None if manifest is None else manifest.library_flavour)
        found["name"] = str(library)
        if manifest is not None:
            plans.check_fit(file, manifest, library.builder, library.version)
            found["fits"] = True
        if library.builder == "tensorrt_rtx":
            tensorrt.Runtime(library, None).load(data, str(file))
    except EngineError as error:
        if manifest is not None and found["name"] is not None and found["fits"] is None:
            found["fits"] = False
        found["says"] = str(error)
    return found


def _engine_json(engine: Engine, library: Library, gpu: Any, manifest: plans.Manifest | None) -> dict[str, Any]:
    return {
        "platform": library.builder,
        "device": str(gpu),
        "device_name": gpu.name,
        "library": {"name": str(library), "path": library.path},
        "manifest": None if manifest is None else manifest.as_dict(),
        "inputs": [_tensor_json(tensor) for tensor in engine.tensors if tensor.input],
        "outputs": [_tensor_json(tensor) for tensor in engine.tensors if not tensor.input],
        "profiles": engine.profiles,
        "weights_bytes": engine.weights_bytes,
        "streamable_weights_bytes": engine.streamable_weights_bytes,
        "activation_bytes": [engine.activation_bytes(profile) for profile in range(engine.profiles)],
        "layers": engine.layers,
        "aux_streams": engine.aux_streams,
        "refittable": engine.refittable,
    }


def _tensor_json(tensor: TensorInfo) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": [None if extent < 0 else extent for extent in tensor.shape],
        "format": tensor.format,
        "on_host": tensor.on_host,
        "profiles": [
            {"min": list(least), "opt": list(likely), "max": list(most)} for least, likely, most in tensor.profiles
        ],
    }


def _description(engine: Engine) -> Any:
    text = engine.describe()
    try:
        return json.loads(text)
    except ValueError:  # an older TensorRT's is not quite JSON
        return text


def _layer_times(engine: Engine, device: str) -> list[tuple[str, float]]:
    """Run at the first profile's optimum with TensorRT's profiler; (layer, milliseconds) each."""
    from trtlab import cuda

    context = engine.create_context()
    stream = cuda.Stream(device)
    memory = []
    for tensor in engine.tensors:
        if tensor.shape_input:
            raise InvalidArgument(
                f"plan {engine.name}: the values of its input '{tensor.name}' decide about shapes, and are not known "
                "here: use trtlab.tensorrt.ExecutionContext.profile_layers"
            )
        if tensor.input:
            context.set_input_shape(tensor.name, tensor.profiles[0][1] if tensor.profiles else tensor.shape)
    context.infer_shapes()
    for tensor in engine.tensors:
        if tensor.input:
            memory.append(_zeros(tensor, context.shape(tensor.name), device))
        else:
            size = max(1, context.max_output_bytes(tensor.name))
            memory.append(cuda.allocate(size, device, "pinned" if tensor.on_host else "device"))
        context.set_address(tensor.name, memory[-1].address)
    scratch = cuda.allocate(max(1, context.activation_bytes()), device)
    context.set_activation_memory(scratch.address, scratch.size_bytes)
    context.profile_layers(stream)  # the first run warms up
    times = context.profile_layers(stream)
    stream.synchronize()
    return times


def _zeros(tensor: TensorInfo, shape: Shape, device: str) -> Any:
    from trtlab import cuda

    if tensor.dtype is None:
        raise InvalidArgument(f"input '{tensor.name}' is of a type without whole bytes: no layer times of it")
    if tensor.on_host:
        return cuda.allocate(max(1, _size(tensor.dtype, shape)), device, "pinned")
    buffer = cuda.allocate(max(1, _size(tensor.dtype, shape)), device)
    cuda.copy(buffer, bytes(buffer.size_bytes))
    return buffer


def _size(dtype: str, shape: Shape) -> int:
    from trtlab._bindings import _cuda

    return _cuda.dense_bytes(dtype, list(shape))


def _print_engine(found: dict[str, Any], engine: Engine, manifest: plans.Manifest | None) -> None:
    print(
        f"{found['file']}: {terminal.size(found['size_bytes'])}, {found['library']['name']} on {found['device']} "
        f"({found['device_name']})"
    )
    print("no manifest: nobody vouches for the plan" if manifest is None else _built_with(manifest))
    scratch = " or ".join(terminal.size(size) for size in found["activation_bytes"]) or "no"
    parts = [f"{terminal.size(found['weights_bytes'])} of weights"]
    if found["streamable_weights_bytes"]:
        parts.append(f"{terminal.size(found['streamable_weights_bytes'])} of them can be streamed")
    parts += [f"{scratch} of scratch memory for an execution", f"{found['layers']} layers"]
    parts += [f"{found['aux_streams']} more streams", *(["refittable"] if found["refittable"] else [])]
    print(", ".join(parts))
    titles = [f"profile {number}" for number in range(found["profiles"])]
    rows = [
        (
            "input" if tensor.input else "output",
            tensor.name,
            tensor.dtype or "?",
            shape_text(tuple(None if extent < 0 else extent for extent in tensor.shape)),
            f"{tensor.format}{', on the host' if tensor.on_host else ''}",
            *(_range_text(profile) for profile in tensor.profiles),
            *([""] * (len(titles) - len(tensor.profiles))),
        )
        for tensor in engine.tensors
    ]
    terminal.print_table(("", "name", "dtype", "shape", "format", *titles), rows, left=5 + len(titles))
    if "layer_times" in found:
        times = found["layer_times"]
        total = sum(one["time_us"] for one in times) or 1.0
        terminal.print_table(
            ("layer", "time", "share"),
            [(one["layer"], terminal.time(one["time_us"]), f"{one['time_us'] / total:.1%}") for one in times],
            f"{len(times)} layers in {terminal.time(total)}, one run at the optimum of profile 0",
        )
    if "description" in found:
        described = found["description"]
        print(described if isinstance(described, str) else json.dumps(described, indent=2))


def _print_manifest(found: dict[str, Any], manifest: plans.Manifest | None) -> None:
    print(f"{found['file']}: {terminal.size(found['size_bytes'])}; no GPU here: {found['why_no_device']}")
    library = found["library"]
    if manifest is None:
        print("no manifest: what is in the plan is known on a GPU only")
    else:
        print(_built_with(manifest))
    if library["name"] is not None:
        fits = {True: "fits", False: "does not fit", None: "nothing to compare"}[library["fits"]]
        print(f"{library['name']}: {fits}")
    if library["says"] is not None:
        print(f"    it says, without a driver: {library['says']}")
    if manifest is None:
        return
    titles = [f"profile {number}" for number in range(len(manifest.profiles))]
    rows = [
        (
            direction,
            tensor.name,
            tensor.dtype,
            shape_text(tensor.shape),
            *(_range_text(profile[tensor.name]) if tensor.name in profile else "" for profile in manifest.profiles),
        )
        for direction, tensors in (("input", manifest.inputs), ("output", manifest.outputs))
        for tensor in tensors
    ]
    terminal.print_table(("", "name", "dtype", "shape", *titles), rows, left=4 + len(titles))


def _built_with(manifest: plans.Manifest) -> str:
    signed = ", signed" if manifest.signature is not None else ""
    return f"built from {manifest.onnx_file} with {manifest.built_with()}, {manifest.options.precision}{signed}"


def _range_text(shapes: Sequence[Sequence[int]]) -> str:
    texts = ["x".join(map(str, shape)) or "scalar" for shape in shapes]
    return texts[0] if len(set(texts)) == 1 else ":".join(texts)
