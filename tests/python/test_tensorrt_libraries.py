"""NVIDIA's real libraries, as PyPI has them, without a GPU: what is opened, what is refused, and in whose words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trtlab import errors, tensorrt

FOLDER = Path(__file__).resolve().parents[2] / "build" / "tensorrt"
RTX_14 = "tensorrt-rtx-cu13-libs-1.4.0.76/tensorrt_rtx_libs/libtensorrt_rtx.so.1"
RTX_17 = "tensorrt-rtx-cu13-libs-1.7.1.116/tensorrt_rtx_libs/libtensorrt_rtx.so.1"
LEAN_11 = "tensorrt-lean-cu13-libs-11.4.0.106/tensorrt_lean_libs/libnvinfer_lean.so.11"


def file(inside: str) -> str:
    path = FOLDER / inside
    if not path.is_file():
        pytest.fail(f"{path} does not exist: make .stamp/tensorrt installs what tests/requirements-tensorrt.txt pins")
    return str(path)


def no_gpu() -> bool:
    """Whether this machine has no driver: with one, TensorRT has nothing to refuse."""
    return not Path("/proc/driver/nvidia/version").exists()


@pytest.mark.parametrize(
    ("inside", "version", "flavour", "builder", "text"),
    [
        (RTX_14, "1.4.0", "rtx", "tensorrt_rtx", "TensorRT-RTX 1.4.0"),
        (RTX_17, "1.7.1", "rtx", "tensorrt_rtx", "TensorRT-RTX 1.7.1"),
        (LEAN_11, "11.4.0", "lean", "tensorrt", "TensorRT 11.4.0 (lean)"),
    ],
)
def test_a_library_is_known_by_what_it_says(inside: str, version: str, flavour: str, builder: str, text: str) -> None:
    library = tensorrt.Library(file(inside))
    assert (library.version, library.flavour, library.builder, str(library)) == (version, flavour, builder, text)
    assert library.path == file(inside)


@pytest.mark.parametrize("inside", [RTX_14, RTX_17])
def test_a_runtime_of_rtx_needs_no_gpu(inside: str) -> None:
    library = tensorrt.Library(file(inside))
    assert tensorrt.Runtime(library, None).max_threads >= 1
    assert tensorrt.Runtime(library, None, max_threads=3).max_threads == 3


@pytest.mark.parametrize("inside", [RTX_14, RTX_17])
def test_a_plan_that_is_none_is_refused_in_the_librarys_words(inside: str) -> None:
    runtime = tensorrt.Runtime(tensorrt.Library(file(inside)), None, log_severity="warning")
    with pytest.raises(errors.InvalidArgument, match="magicTag") as raised:
        runtime.load(b"A" * 5000, "garbage")
    message = str(raised.value)
    assert "'garbage' of 5000 bytes" in message
    assert "it is no plan, or a damaged one" in message
    assert "/_src" not in message
    log = runtime.take_log()
    assert any(severity == "error" and "magicTag" in line for severity, line in log)
    assert runtime.take_log() == []
    with pytest.raises(errors.InvalidArgument, match="minBufferSize"):
        runtime.load(b"short")
    with pytest.raises(errors.InvalidArgument, match="is empty"):
        runtime.load(b"")


def test_a_plan_in_a_file_is_refused_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(errors.InvalidArgument, match=r"x\.plan"):
        tensorrt.Runtime(tensorrt.Library(file(RTX_14)), None).load(path)


@pytest.mark.skipif(not no_gpu(), reason="has a GPU")
def test_tensorrt_says_itself_that_it_finds_no_driver() -> None:
    with pytest.raises(errors.EngineError, match="CUDA initialization failure with error: 35") as raised:
        tensorrt.Runtime(tensorrt.Library(file(LEAN_11)), None)
    assert LEAN_11 in str(raised.value)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tensorrt.Library]:
    """Open from two folders that hold RTX 1.4 and RTX 1.7 under one name, and a third with lean 11.4."""
    monkeypatch.delenv("TRTLAB_TENSORRT_LIBRARY", raising=False)
    folders = []
    for inside in (RTX_14, RTX_17, LEAN_11):
        folder = tmp_path / Path(inside).parts[0]
        folder.mkdir()
        (folder / Path(inside).name).symlink_to(file(inside))
        folders.append(str(folder))

    def open_one(**options: str | list[str]) -> tensorrt.Library:
        return tensorrt.Library(directories=folders, **options)  # type: ignore[arg-type]

    return open_one


def test_the_version_asked_for_is_found_among_several(both: Callable[..., tensorrt.Library]) -> None:
    assert both(version="1.4").version == "1.4.0"
    assert both(version="1.7.1").version == "1.7.1"
    assert both(version="11").flavour == "lean"
    assert both(flavours=["rtx"]).version == "1.7.1"
    with pytest.raises(errors.EngineError, match=r"(?s)of version 1\.5.*1\.4\.0.*version 1\.5 was asked for") as raised:
        both(version="1.5", flavours=["rtx"])
    assert "pip install" in str(raised.value)


def test_a_file_that_only_looks_like_one_is_refused_with_the_loaders_reason(tmp_path: Path) -> None:
    broken = tmp_path / "libtensorrt_rtx.so.1"
    shutil.copy(__file__, broken)
    with pytest.raises(errors.EngineError, match="invalid ELF header"):
        tensorrt.Library(str(broken))
