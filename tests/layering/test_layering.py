"""The laws of cpp/DESIGN.md that can be read off the sources, checked without a compiler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 450
BINDINGS = "python/trtlab/_bindings"
PYTHON_HEADER = f"{BINDINGS}/python.hpp"
HWLOC_SOURCE = "cpp/core/src/topology.cpp"
FOLDERS = ("cpp", "python", "tests", "bench", "examples")
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc"}

# No path, no suffix: the C++ standard library names its headers so, and nobody else does.
STANDARD = re.compile(r"[a-z_]+")
# What Linux offers to everybody. dlfcn.h is not here: opening libraries is the business of the engine layers.
LINUX = re.compile(r"(cxxabi|errno|fcntl|limits|poll|pthread|sched|signal|stdint|time|unistd|(linux|sys)/\w+)\.h")


@dataclass(frozen=True)
class Layer:
    """What the sources of one layer may include beyond the standard library and Linux."""

    folder: str
    public: tuple[str, ...]  # prefixes, in any file of the layer
    private: tuple[str, ...] = ()  # prefixes, in src/ only


LAYERS = (
    Layer("cpp/core", public=("trtlab/core/",)),
    Layer("cpp/openvino", public=("trtlab/core/", "trtlab/openvino/"), private=("openvino/c/", "dlfcn.h")),
    Layer(
        "cpp/cuda",
        public=("trtlab/core/", "trtlab/cuda/"),
        private=("cuda_runtime_api.h", "nvtx3/", "dlfcn.h"),
    ),
    # No header of NVIDIA's: the interface of TensorRT is in its src/abi.
    Layer(
        "cpp/tensorrt",
        public=("trtlab/core/", "trtlab/cuda/", "trtlab/tensorrt/"),
        private=("dlfcn.h",),
    ),
    Layer(
        f"{BINDINGS}/core", public=("trtlab/core/", "nanobind/", "python.hpp", "device_bridge.hpp", "memory_handle.hpp")
    ),
    Layer(
        f"{BINDINGS}/openvino",
        public=("trtlab/core/", "trtlab/openvino/", "nanobind/", "python.hpp"),
    ),
    Layer(
        f"{BINDINGS}/cuda",
        public=("trtlab/core/", "trtlab/cuda/", "nanobind/", "python.hpp", "device_bridge.hpp", "memory_handle.hpp"),
    ),
    Layer(
        f"{BINDINGS}/tensorrt",
        public=("trtlab/core/", "trtlab/cuda/", "trtlab/tensorrt/", "nanobind/", "python.hpp"),
    ),
)
BINDINGS_SHARED = Layer(BINDINGS, public=("trtlab/core/", "nanobind/", "python.hpp"))

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<([^>\n]+)>|"([^"\n]+)"|(\S+))', re.MULTILINE)
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)


def without_comments(text: str) -> str:
    return COMMENT.sub(lambda match: match.group(1) or " ", text)


def sources(root: Path, *suffixes: str) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path for path in sorted((root / folder).rglob("*")) if path.suffix in suffixes)


def layer_of(path: str) -> Layer | None:
    for layer in LAYERS:
        if path.startswith(layer.folder + "/"):
            return layer
    return BINDINGS_SHARED if path.startswith(BINDINGS + "/") else None


def why_not(path: Path, name: str, quoted: bool, root: Path, layer: Layer) -> str | None:
    """Why the file may not include `name`, or None if it may."""
    where = path.relative_to(root).as_posix()
    if name == "Python.h":
        return None if where == PYTHON_HEADER else f"only {PYTHON_HEADER} includes Python.h"
    if name == "hwloc.h" or name.startswith("hwloc/"):
        return None if where == HWLOC_SOURCE else f"only {HWLOC_SOURCE} includes hwloc"
    if quoted and name != "python.hpp":
        # A header of one's own, next to the file or below the layer's src/.
        for folder in (path.parent, root / layer.folder / "src"):
            beside = (folder / name).resolve()
            if beside.is_file():
                inside = beside.is_relative_to((root / layer.folder).resolve())
                return None if inside else f"it lies outside of {layer.folder}"
    if (not quoted and STANDARD.fullmatch(name)) or LINUX.fullmatch(name) or name.startswith(layer.public):
        return None
    if name.startswith(layer.private):
        return None if where.startswith(f"{layer.folder}/src/") else f"only {layer.folder}/src may include it"
    return f"{layer.folder} may include the standard library, {', '.join(layer.public + layer.private)}"


def wrong_includes(root: Path) -> list[str]:
    found = []
    for path in sources(root, ".cpp", ".hpp", ".h", ".cu", ".cuh"):
        where = path.relative_to(root).as_posix()
        layer = layer_of(where)
        for match in INCLUDE.finditer(without_comments(path.read_text(encoding="utf-8"))):
            angled, quoted, computed = match.groups()
            name = angled or quoted or computed
            if computed:
                reason = "an include must name its file"
            elif layer is not None:
                reason = why_not(path, name, quoted is not None, root, layer)
            elif name == "Python.h" or (name.startswith("nanobind/") and not where.startswith("bench/")):
                # A benchmark may have nanobind itself as the rival.
                reason = f"Python is met under {BINDINGS} only"
            elif where.startswith("cpp/"):
                reason = "the folder is no layer that this test knows"
            else:
                reason = None
            if reason is not None:
                found.append(f"{where} includes {name}: {reason}")
    return found


def wrong_files(root: Path) -> list[str]:
    found = []
    for path in sources(root, ".cpp", ".hpp", ".h", ".cu", ".cuh", ".py"):
        where = path.relative_to(root).as_posix()
        if NAMES_THAT_SAY_NOTHING & {part.lower() for part in path.relative_to(root).with_suffix("").parts}:
            found.append(f"{where}: the name says nothing about what is inside")
        if path.suffix == ".py":
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MAX_LINES:
            found.append(f"{where}: {lines} lines, at most {MAX_LINES}")
        if path.suffix == ".cu" and "__global__" not in without_comments(text):
            found.append(f"{where}: a .cu file without a __global__ function is a .cpp file")
    return found


def test_every_include_stays_in_its_layer() -> None:
    assert wrong_includes(ROOT) == []


def test_every_file_has_a_telling_name_and_a_readable_size() -> None:
    assert wrong_files(ROOT) == []


def test_the_laws_are_applied_to_real_files() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in sources(ROOT, ".cpp", ".hpp")]
    for layer in LAYERS:
        assert any(layer_of(file) == layer for file in files), layer.folder


CORE_SOURCE = "cpp/core/src/pool.cpp"
ENGINE_SOURCE = "cpp/openvino/src/runner.cpp"
CORE_MODULE = "python/trtlab/_bindings/core/module.cpp"


@pytest.mark.parametrize(
    ("where", "line", "word"),
    [
        (CORE_SOURCE, "#include <cuda_runtime_api.h>", "cpp/core"),
        (CORE_SOURCE, "#include <dlfcn.h>", "cpp/core"),
        (CORE_SOURCE, "#include <hwloc.h>", "only cpp/core/src/topology.cpp"),
        ("cpp/core/include/trtlab/core/topology.hpp", "#include <hwloc.h>", "only cpp/core/src/topology.cpp"),
        ("cpp/cuda/src/device.cpp", "#include <hwloc/cudart.h>", "only cpp/core/src/topology.cpp"),
        (CORE_SOURCE, '#include "trtlab/openvino/runner.hpp"', "cpp/core"),
        (CORE_SOURCE, '#include "../../openvino/src/table.hpp"', "outside"),
        (CORE_SOURCE, "#include HEADER", "must name its file"),
        (CORE_SOURCE, "  #  include <nanobind/nanobind.h>", "cpp/core"),
        ("cpp/core/include/trtlab/core/pool.hpp", "#include <Python.h>", "python.hpp"),
        ("cpp/openvino/include/trtlab/openvino/runner.hpp", "#include <openvino/c/openvino.h>", "src"),
        (ENGINE_SOURCE, "#include <openvino/openvino.hpp>", "cpp/openvino"),
        ("cpp/cuda/include/trtlab/cuda/stream.hpp", "#include <cuda_runtime_api.h>", "cpp/cuda/src"),
        ("cpp/cuda/src/stream.cpp", '#include "trtlab/tensorrt/engine.hpp"', "cpp/cuda"),
        ("cpp/tensorrt/src/engine.cpp", "#include <cuda_runtime_api.h>", "cpp/tensorrt"),
        ("cpp/tensorrt/src/engine.cpp", "#include <NvInfer.h>", "cpp/tensorrt"),
        ("cpp/tensorrt/src/engine.cpp", '#include "trtlab/openvino/runner.hpp"', "cpp/tensorrt"),
        ("cpp/telepathy/src/runner.cpp", "#include <vector>", "no layer"),
        (CORE_MODULE, "#include <Python.h>", "python.hpp"),
        (CORE_MODULE, '#include "trtlab/openvino/runner.hpp"', "_bindings/core"),
        ("tests/core/pool_test.cpp", "#include <nanobind/nanobind.h>", "_bindings only"),
        ("bench/pool.cpp", "#include <Python.h>", "_bindings only"),
    ],
)
def test_a_wrong_include_is_caught(tmp_path: Path, where: str, line: str, word: str) -> None:
    planted(tmp_path, "cpp/openvino/src/table.hpp", "#pragma once\n")
    planted(tmp_path, where, f"// a comment\n{line}\nint x;\n")
    (message,) = wrong_includes(tmp_path)
    assert message.startswith(where)
    assert word in message


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (CORE_SOURCE, '#include <vector>\n#include "trtlab/core/pool.hpp"\n#include <linux/futex.h>\n'),
        (CORE_SOURCE, '#include "free_list.hpp"\n'),
        ("cpp/core/src/topology.cpp", "#include <hwloc.h>\n#include <hwloc/distances.h>\n"),
        (CORE_SOURCE, "// #include <cuda.h>\n/*\n#include <Python.h>\n*/\n"),
        (ENGINE_SOURCE, "#include <dlfcn.h>\n#include <openvino/c/openvino.h>\n"),
        (ENGINE_SOURCE, '#include "trtlab/core/pool.hpp"\n#include "trtlab/openvino/runner.hpp"\n'),
        (
            "cpp/cuda/src/stream.cpp",
            "#include <cuda_runtime_api.h>\n#include <nvtx3/nvToolsExt.h>\n#include <dlfcn.h>\n",
        ),
        ("cpp/tensorrt/src/engine.cpp", '#include <dlfcn.h>\n#include "trtlab/cuda/stream.hpp"\n'),
        ("python/trtlab/_bindings/python.hpp", "#include <Python.h>\n"),
        (CORE_MODULE, '#include "python.hpp"\n#include <nanobind/nanobind.h>\n'),
        ("tests/core/pool_test.cpp", '#include <gtest/gtest.h>\n#include "trtlab/core/pool.hpp"\n'),
    ],
)
def test_a_right_include_is_not_caught(tmp_path: Path, where: str, text: str) -> None:
    planted(tmp_path, "cpp/core/src/free_list.hpp", "#pragma once\n")
    planted(tmp_path, where, text)
    assert wrong_includes(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "text", "word"),
    [
        ("cpp/core/src/utils.cpp", "", "says nothing"),
        ("cpp/core/include/trtlab/core/Common.hpp", "", "says nothing"),
        ("python/trtlab/helpers/tensor.py", "", "says nothing"),
        ("tests/python/misc.py", "", "says nothing"),
        ("cpp/core/src/pool.cpp", "int x;\n" * (MAX_LINES + 1), "at most"),
        ("cpp/cuda/src/copy.cu", "// no __global__ here\nint x;\n", "__global__"),
    ],
)
def test_a_wrong_file_is_caught(tmp_path: Path, where: str, text: str, word: str) -> None:
    planted(tmp_path, where, text)
    (message,) = wrong_files(tmp_path)
    assert message.startswith(where)
    assert word in message


def test_a_right_file_is_not_caught(tmp_path: Path) -> None:
    planted(tmp_path, "cpp/core/src/pool.cpp", "int x;\n" * MAX_LINES)
    planted(tmp_path, "cpp/cuda/src/copy.cu", "__global__ void copy() {}\n")
    assert wrong_files(tmp_path) == []


def planted(root: Path, where: str, text: str) -> None:
    path = root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
