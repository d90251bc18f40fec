"""What ``trtlab doctor`` finds of GPUs: CUDA, each GPU, TensorRT's libraries, NVIDIA's builders."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from trtlab.cli import terminal
from trtlab.errors import Error

CUDART_VARIABLE = "TRTLAB_CUDART_LIBRARY"
TENSORRT_VARIABLE = "TRTLAB_TENSORRT_LIBRARY"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
# Under which names PyPI has the packages that are imported as these.
BUILDERS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


def cuda() -> dict[str, Any]:
    """Return CUDA's runtime, the driver's version, and the GPUs that this process may use."""
    found: dict[str, Any] = {
        "usable": False,
        "version": None,
        "driver_version": None,
        "path": None,
        "devices": [],
        "error": None,
    }
    try:
        from trtlab import cuda as runtime

        library = runtime.library()
        found |= {
            "version": _dotted(library.version),
            "driver_version": _dotted(library.driver_version),
            "path": library.path,
        }
        found["devices"] = [_device(device) for device in runtime.devices()]
        found["usable"] = bool(found["devices"])
        found["error"] = runtime.why_no_device() or None
    except (Error, ImportError) as error:
        found["error"] = str(error)
    return found


def _device(device: Any) -> dict[str, Any]:
    found = {
        "name": str(device),
        "product": device.name,
        "uuid": device.uuid,
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "memory": None,
        "numa_node": device.numa_node,
        "power_watts": None,
        "power_limit_watts": None,
        "temperature_celsius": None,
        "error": None,
    }
    try:
        memory = device.memory()
        found["memory"] = {"total_bytes": memory.total_bytes, "free_bytes": memory.free_bytes}
        load = device.load()
        for figure in ("power_watts", "power_limit_watts", "temperature_celsius"):
            found[figure] = getattr(load, figure)
    except Error as error:  # one GPU that fails is no reason not to tell of the others
        found["error"] = str(error)
    return found


def tensorrt(has_gpu: bool) -> dict[str, Any]:
    """Return the library that a model would be loaded with. It is opened only where there is a GPU: it is large."""
    found: dict[str, Any] = {"usable": False, "name": None, "version": None, "path": None, "error": None}
    if not has_gpu:
        return found | {"error": "there is no GPU"}
    try:
        from trtlab import tensorrt as layer

        library = layer.library()
        return found | {"usable": True, "name": str(library), "version": library.version, "path": library.path}
    except (Error, ImportError) as error:
        return found | {"error": str(error)}


def libraries() -> list[dict[str, Any]]:
    """Return every TensorRT library that is found, usable or not. Opens them."""
    try:
        from trtlab import tensorrt as layer

        found = layer.find()
    except (Error, ImportError):  # what `tensorrt` tells
        return []
    return [
        {
            "path": one.path,
            "flavour": one.flavour,
            "version": one.version or None,
            "usable": not one.problem,
            "error": one.problem or None,
        }
        for one in found
    ]


def builders() -> dict[str, str | None]:
    """Return the versions of NVIDIA's builder packages; None for one that is not installed. Imports none."""
    return {name: _builder_version(name, packages) for name, packages in BUILDERS.items()}


def _builder_version(name: str, packages: tuple[str, ...]) -> str | None:
    try:
        if importlib.util.find_spec(name) is None:
            return None
    except ValueError:  # in sys.modules, without a spec
        pass
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def problems(found: Mapping[str, Any], pip: str) -> list[dict[str, str]]:
    """Return what keeps models from the GPUs that are there, and what fixes it; nothing where there are none."""
    runtime, engine = found["cuda"], found["engines"]["tensorrt"]
    if runtime["path"] is None:
        if not found["gpu"]["devices"]:
            return []
        return [_problem(f"CUDA's runtime, for the GPUs: {runtime['error']}", f'{pip} "trtlab[cuda]"', CUDART_VARIABLE)]
    if not runtime["devices"]:
        if not found["gpu"]["devices"]:
            return []
        hidden = os.environ.get(VISIBLE_VARIABLE) is not None
        fix = f"unset {VISIBLE_VARIABLE}" if hidden else "nvidia-smi"
        return [{"what": f"a GPU that this process may use: {runtime['error']}", "fix": fix}]
    missing = []
    install = f'{pip} "trtlab[tensorrt]"    # or "trtlab[rtx]" for TensorRT for RTX'
    if not engine["usable"]:
        missing.append(_problem(f"an engine for the GPUs: {engine['error']}", install, TENSORRT_VARIABLE))
    elif not any(found["builders"].values()):
        missing.append({"what": "NVIDIA's builder, which makes plans of ONNX files", "fix": install})
    return missing


def _problem(what: str, install: str, variable: str) -> dict[str, str]:
    # As long as it is set, no installed package is looked at.
    return {"what": what, "fix": f"unset {variable}" if os.environ.get(variable) else install}


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return lines of the table."""
    runtime, driver = found["cuda"], found["gpu"]["driver"]
    lines = []
    if runtime["path"] is None:
        lines.append(("CUDA", "no runtime"))
    else:
        newest = f"a driver for CUDA {runtime['driver_version']}" if runtime["driver_version"] else "no driver"
        lines.append(("CUDA", f"{runtime['version']}, {newest}: {runtime['path']}"))
    files = ", ".join(found["gpu"]["devices"]) or "none"
    there = "libcuda.so.1 is there" if driver["usable"] else f"no driver ({driver['error']})"
    why = f"; {runtime['error']}" if runtime["path"] and runtime["error"] and driver["usable"] else ""
    lines.append(("GPUs", f"{files}; {there}{why}"))
    lines += [(device["name"], _device_text(device)) for device in runtime["devices"]]
    for one in found["libraries"]:
        name = f"{one['flavour']} {one['version'] or 'of unknown version'}"
        lines.append(("TensorRT", f"{name}: {one['path']}{'' if one['usable'] else ': unusable: ' + one['error']}"))
    if not found["libraries"]:
        lines.append(("TensorRT", "no library found"))
    names = ", ".join(f"{name} {version or 'missing'}" for name, version in found["builders"].items())
    lines.append(("builders", names))
    return lines


def _device_text(device: Mapping[str, Any]) -> str:
    parts = [device["product"], f"compute capability {device['compute_capability']}"]
    if device["memory"] is not None:
        memory = device["memory"]
        parts.append(f"{terminal.size(memory['free_bytes'])} of {terminal.size(memory['total_bytes'])} free")
    if device["numa_node"] is not None:
        parts.append(f"NUMA node {device['numa_node']}")
    if device["power_watts"] is not None:
        limit = f" of {device['power_limit_watts']:.0f}" if device["power_limit_watts"] is not None else ""
        parts.append(f"{device['power_watts']:.0f}{limit} W")
    parts.append(device["uuid"])
    if device["error"] is not None:
        parts.append(device["error"])
    return ", ".join(parts)


def _dotted(version: tuple[int, ...] | None) -> str | None:
    return None if version is None else ".".join(map(str, version))
