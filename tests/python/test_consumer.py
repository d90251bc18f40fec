"""The installed wheel as a C++ SDK: a program outside of the repository's build finds and links it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trtlab

PACKAGE = Path(trtlab.__file__).parent
CONSUMER = Path(__file__).resolve().parents[1] / "consumer"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)


def distribution_files(distribution: str, name: str) -> Iterator[Path]:
    for file in importlib.metadata.files(distribution) or []:
        if file.name == name:
            yield Path(str(file.locate()))


def configure(source: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run("cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *options)


def check(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hint", [f"trtlab_DIR={PACKAGE}/lib/cmake/trtlab", f"CMAKE_PREFIX_PATH={PACKAGE}"])
def test_a_cpp_program_builds_against_the_installed_wheel_and_runs(tmp_path: Path, hint: str) -> None:
    check(configure(CONSUMER, tmp_path, f"-D{hint}"))
    check(run("cmake", "--build", tmp_path))
    classifier = next(distribution_files("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx"))
    assert check(run(tmp_path / "consumer", trtlab.openvino.library().path, classifier)) == "[1, 2]\n"
    missing = run(tmp_path / "consumer", trtlab.openvino.library().path, "nowhere.onnx")
    assert missing.returncode == 1
    assert "nowhere.onnx" in missing.stderr


def test_a_component_that_does_not_exist_is_named(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\n"
        "project(consumer LANGUAGES CXX)\n"
        "find_package(trtlab REQUIRED COMPONENTS core telepathy)\n"
    )
    done = configure(tmp_path, tmp_path / "build", f"-Dtrtlab_DIR={PACKAGE}/lib/cmake/trtlab")
    assert done.returncode != 0
    assert "no component 'telepathy'" in done.stderr
    assert "core" in done.stderr


def test_a_version_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\n"
        "project(consumer LANGUAGES CXX)\n"
        "find_package(trtlab 99.0 REQUIRED COMPONENTS core)\n"
    )
    done = configure(tmp_path, tmp_path / "build", f"-Dtrtlab_DIR={PACKAGE}/lib/cmake/trtlab")
    assert done.returncode != 0
    assert "99.0" in done.stderr


def test_public_headers_need_nothing_but_the_wheel(tmp_path: Path) -> None:
    headers = sorted((PACKAGE / "include").rglob("*.hpp"))
    assert {header.parent.name for header in headers} >= {"core", "openvino"}
    for header in headers:
        text = header.read_text(encoding="utf-8")
        assert not re.search(r"#\s*include\s*[<\"](openvino/|Python\.h|nanobind/)", text), header
    lines = "".join(f'#include "{header.relative_to(PACKAGE / "include")}"\n' for header in headers)
    (tmp_path / "all.cpp").write_text(lines * 2)
    check(run("c++", "-std=c++20", "-fsyntax-only", f"-I{PACKAGE}/include", tmp_path / "all.cpp"))


def test_the_readme_blocks_compile_against_the_installed_headers(tmp_path: Path) -> None:
    readme = (CONSUMER.parents[1] / "README.md").read_text(encoding="utf-8")
    on_cpu, on_gpu = re.findall(r"^```cpp\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "block.cpp").write_text(
        "#include <trtlab/core/inference_manager.hpp>\n#include <trtlab/openvino/runner.hpp>\n"
        "#include <trtlab/tensorrt/runner.hpp>\n"
        "namespace core = trtlab::core;\nnamespace openvino = trtlab::openvino;\n"
        "namespace cuda = trtlab::cuda;\nnamespace tensorrt = trtlab::tensorrt;\n"
        f"void run(const core::Tensor& batch) {{\n{on_cpu}(void)probabilities;\n{{\n{on_gpu}(void)model;\n}}\n}}\n"
    )
    check(
        run(
            "c++",
            "-std=c++20",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            f"-I{PACKAGE}/include",
            tmp_path / "block.cpp",
        )
    )
