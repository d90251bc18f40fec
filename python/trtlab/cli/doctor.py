"""``trtlab doctor``: what is there, what is missing, and the command that fixes it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import click

import trtlab
from trtlab.cli import doctor_gpu, terminal
from trtlab.cli.loading import json_option
from trtlab.errors import Error

LIBRARY_VARIABLE = "TRTLAB_OPENVINO_LIBRARY"
PACKAGES = ("numpy", "openvino", "onnx", "pillow", "nvidia-cuda-runtime")


@click.command(short_help="Say what is installed, what is missing, and what fixes it.")
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, on what machine, what is missing, and which command fixes it.

    Exits with 0 if a model can be run, else with 1.
    """
    found = environment()
    found["libraries"] = doctor_gpu.libraries()
    found["builders"] = doctor_gpu.builders()
    found["problems"] = problems = _problems(found) + doctor_gpu.problems(found, _pip())
    found["ok"] = any(engine["usable"] for engine in found["engines"].values())
    if as_json:
        terminal.print_json(found)
    else:
        terminal.print_table(("", ""), _rows(found), left=2)
        for problem in problems:
            print(f"missing: {problem['what']}\n    {problem['fix']}")
        print(
            f"ok: models can be run on {_places(found)}" if found["ok"] else "not ok: no engine, so no model can be run"
        )
    if not found["ok"]:
        raise click.exceptions.Exit(1)


def environment() -> dict[str, Any]:
    """Return versions, machine, devices and engines, as JSON has them."""
    cuda = doctor_gpu.cuda()
    return {
        "trtlab": {"version": trtlab.__version__, "folder": str(Path(trtlab.__file__).parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "packages": {name: _version(name) for name in PACKAGES},
        "system": {"name": _system_name(), "kernel": platform.release(), "machine": platform.machine()},
        "cpu": {"model": cpu_model(), "usable": trtlab.usable_cpus(), "machine": os.cpu_count()},
        "memory": memory(),
        "numa": numa_nodes(),
        "gpu": {"devices": gpu_devices(), "driver": _driver()},
        "cuda": cuda,
        "engines": {"openvino": _openvino(), "tensorrt": doctor_gpu.tensorrt(bool(cuda["devices"]))},
    }


def cpu_model(file: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the processor's name; None where the kernel does not tell it."""
    for line in _lines(file):
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "cpu model", "hardware", "model"):
            name = value.strip()
            if not name.isdigit():
                return name
    return None


def memory(file: Path = Path("/proc/meminfo")) -> dict[str, int | None]:
    """Return the machine's memory and what of it is available, in bytes."""
    sizes = _sizes(file)
    return {"total_bytes": sizes.get("MemTotal"), "available_bytes": sizes.get("MemAvailable")}


def numa_nodes(root: Path = Path("/sys/devices/system/node")) -> list[dict[str, Any]]:
    """Return the NUMA nodes with their CPUs (the kernel's list, "0-3,8") and bytes of memory."""
    nodes = []
    for folder in root.glob("node[0-9]*"):
        number = folder.name.removeprefix("node")
        if number.isdigit():
            cpus = " ".join(_lines(folder / "cpulist"))
            # "Node 0 MemTotal:  65 kB"
            size = {key.split()[-1]: value for key, value in _sizes(folder / "meminfo").items()}.get("MemTotal")
            nodes.append({"node": int(number), "cpus": cpus, "memory_bytes": size})
    return sorted(nodes, key=lambda node: int(node["node"]))


def gpu_devices(root: Path = Path("/dev")) -> list[str]:
    """Return the device files of NVIDIA GPUs that this process can see."""
    return sorted(str(path) for path in root.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit())


def _driver() -> dict[str, Any]:
    # Opened under the name that CUDA programs use: whether it is there, and not where, is the question.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return {"usable": False, "error": str(error)}
    return {"usable": True, "error": None}


def _openvino() -> dict[str, Any]:
    try:
        library = trtlab.openvino.library()
        devices = list(library.devices)
        return {
            "usable": "CPU" in devices,
            "version": library.version,
            "path": library.path,
            "devices": devices,
            "error": None if "CPU" in devices else "it knows no CPU device",
        }
    except (Error, ImportError) as error:
        return {"usable": False, "version": None, "path": None, "devices": [], "error": str(error)}


def _pip() -> str:
    return f"{shlex.quote(sys.executable)} -m pip install"


def _places(found: dict[str, Any]) -> str:
    """Say where: "the CPU and cuda:0"."""
    engines = found["engines"]
    gpus = [device["name"] for device in found["cuda"]["devices"]] if engines["tensorrt"]["usable"] else []
    return " and ".join([*(["the CPU"] if engines["openvino"]["usable"] else []), *([", ".join(gpus)] if gpus else [])])


def _problems(found: dict[str, Any]) -> list[dict[str, str]]:
    pip = _pip()
    problems = []
    engine = found["engines"]["openvino"]
    if not engine["usable"]:
        installed = found["packages"]["openvino"] is not None
        fix = f'{pip} --force-reinstall "openvino>=2026.4,<2027"' if installed else f'{pip} "trtlab[cpu]"'
        if os.environ.get(LIBRARY_VARIABLE):
            # As long as it is set, no installed package is looked at.
            unset = f"unset {LIBRARY_VARIABLE}"
            fix = unset if installed else f"{unset}; {fix}"
        problems.append({"what": f"an engine for the CPU: {engine['error']}", "fix": fix})
    if found["packages"]["pillow"] is None:
        problems.append({"what": "Pillow, with which `trtlab infer` reads pictures", "fix": f'{pip} "trtlab[image]"'})
    return problems


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, memory_, engine = found["cpu"], found["memory"], found["engines"]["openvino"]
    rows = [
        ("trtlab", f"{found['trtlab']['version']} in {found['trtlab']['folder']}"),
        ("Python", f"{found['python']['version']}, {found['python']['executable']}"),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items())),
        ("system", "{name}, kernel {kernel}, {machine}".format(**found["system"])),
        ("CPU", f"{cpu['model'] or 'of unknown model'}: {cpu['usable']} of {cpu['machine']} CPUs may be used"),
        ("memory", f"{_size(memory_['total_bytes'])}, {_size(memory_['available_bytes'])} available"),
    ]
    for node in found["numa"]:
        rows.append((f"NUMA node {node['node']}", f"CPUs {node['cpus'] or 'none'}, {_size(node['memory_bytes'])}"))
    if engine["usable"]:
        rows.append(("OpenVINO", f"{engine['version']} for {', '.join(engine['devices'])}: {engine['path']}"))
    else:
        rows.append(("OpenVINO", "unusable, see below"))
    rows += doctor_gpu.rows(found)
    return rows


def _size(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else terminal.size(size_bytes)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return platform.system()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _sizes(file: Path) -> dict[str, int]:
    """Read lines like "MemTotal:  65 kB"."""
    sizes = {}
    for line in _lines(file):
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            sizes[key.strip()] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return sizes
