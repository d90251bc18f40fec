"""What the installed wheel consists of."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trtlab

PACKAGE = Path(trtlab.__file__).parent
LAYERS = ("core", "openvino")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_has_its_library_headers_cmake_file_module_and_stub(layer: str) -> None:
    assert (PACKAGE / "lib" / f"libtrtlab_{layer}.so").is_file()
    assert list((PACKAGE / "include" / "trtlab" / layer).glob("*.hpp"))
    assert (PACKAGE / "lib" / "cmake" / "trtlab" / f"trtlab-{layer}-targets.cmake").is_file()
    assert len(list((PACKAGE / "_bindings").glob(f"_{layer}.*.so"))) == 1
    assert (PACKAGE / "_bindings" / f"_{layer}.pyi").stat().st_size > 0


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_sources_stay_out_of_the_wheel() -> None:
    inside = [path for path in PACKAGE.rglob("*") if path.suffix in {".cpp", ".in", ".txt", ".cu"}]
    assert inside == []
    assert list((PACKAGE / "_bindings").rglob("*.hpp")) == []


def test_importing_the_package_loads_nothing_but_its_bindings_and_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import trtlab; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "trtlab" in loaded
    assert loaded - {"trtlab", "nanobind_backend"} <= sys.stdlib_module_names


def test_the_version_is_the_same_everywhere() -> None:
    version = importlib.metadata.version("trtlab")
    assert trtlab.__version__ == version
    text = (PACKAGE / "lib" / "cmake" / "trtlab" / "trtlabConfigVersion.cmake").read_text(encoding="utf-8")
    assert re.search(r'set\(PACKAGE_VERSION "([^"]+)"\)', text).group(1) == version  # type: ignore[union-attr]


def test_one_wheel_serves_every_python() -> None:
    wheel = importlib.metadata.distribution("trtlab").read_text("WHEEL")
    assert wheel is not None
    assert re.findall(r"^Tag: (\w+-\w+)-", wheel, re.MULTILINE) == ["cp310-abi3"]
    assert all(path.name.endswith(".abi3.so") for path in (PACKAGE / "_bindings").glob("*.so"))


def test_no_file_holds_a_path_of_the_machine_that_built_it() -> None:
    # As a path of its own, not as the end of a longer one: the repository may lie at /trtlab.
    root = re.compile(rf"(?<![\w.}}/-]){re.escape(str(Path(__file__).resolve().parents[2]))}/")
    for path in [*(PACKAGE / "lib" / "cmake").rglob("*.cmake"), *(PACKAGE / "_bindings").rglob("*.pyi")]:
        assert root.search(path.read_text(encoding="utf-8")) is None, path


@pytest.mark.parametrize("layer", LAYERS)
def test_an_extension_module_shows_only_its_entry(layer: str) -> None:
    (module,) = (PACKAGE / "_bindings").glob(f"_{layer}.*.so")
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(module)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = {line.split()[0] for line in listed.splitlines() if line.split()[1] == "T"}
    assert functions == {f"PyInit__{layer}"}
