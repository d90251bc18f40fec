"""What full TensorRT is told: a package and a CUDA of its shape write it down, for both may be missing here."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import trtlab
from onnx import TensorProto, helper
from trtlab import plans
from trtlab.errors import Cancelled, CudaError, EngineError, InvalidArgument, NotFound
from trtlab.plans import Built, capability
from trtlab.plans.toolchain import Toolchain, find_library

SmallOnnx = Callable[..., Path]
PROFILE = "x=1x...:4x...:8x..."
FLOAT32, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16

pytestmark = pytest.mark.usefixtures("plan_cache")


class Cuda:
    """What is used of `trtlab.cuda` and of CUDA's runtime, for GPUs that are a list of names and capabilities."""

    def __init__(self, *gpus: tuple[str, tuple[int, int]]) -> None:
        self.gpus = gpus
        self.current = 0
        self.ill = False

    def device(self, name: str) -> Any:
        ordinal = int(name.partition(":")[2] or 0)
        if ordinal >= len(self.gpus):
            raise NotFound(f"device {name}: there are {len(self.gpus)}")
        title, capability = self.gpus[ordinal]
        return SimpleNamespace(ordinal=ordinal, name=title, compute_capability=capability)

    def library(self) -> Any:
        return SimpleNamespace(path="libcudart.so")

    def cudaGetDevice(self, ordinal: Any) -> int:
        ordinal._obj.value = self.current
        return 0

    def cudaSetDevice(self, ordinal: int) -> int:
        self.current = ordinal
        return 46 if self.ill else 0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda(("H100", (9, 0)), ("A10", (8, 6)))
    monkeypatch.setattr(capability, "_cuda", lambda: made)
    monkeypatch.setattr(capability, "_runtime", lambda path: made)
    return made


@pytest.fixture(params=["10.13.3.9", "11.4.0.106"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tensorrt(version: str, cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("FAKE_TENSORRT", version)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    yield importlib.import_module("tensorrt")
    sys.modules.pop("tensorrt", None)


def build(model: Path, plan: Path | None = None, **more: Any) -> Built:
    return trtlab.build(model, plan, **{"profiles": PROFILE, "library": "tensorrt", **more})


def told(tensorrt: Any, what: str) -> list[Any]:
    return [call[1:] if len(call) > 2 else call[1] for call in tensorrt.calls if call[0] == what]


only_10 = pytest.mark.parametrize("version", ["10.13.3.9"], indirect=True)
only_11 = pytest.mark.parametrize("version", ["11.4.0.106"], indirect=True)


def test_a_plan_is_for_the_gpu_it_was_built_on(
    tensorrt: Any, version: str, cuda: Cuda, small_onnx: SmallOnnx, tmp_path: Path
) -> None:
    tensorrt.during_build.append(lambda: seen.append(cuda.current))
    seen: list[int] = []
    built = build(small_onnx(), tmp_path / "m.plan", device="cuda:1")
    assert (seen, cuda.current) == ([1], 0)
    assert (built.manifest.library_flavour, built.manifest.library_version) == ("tensorrt", version)
    assert built.manifest.compute_capability == ("8.6",)
    assert Path(built).read_bytes() == tensorrt.plan_bytes[0]
    with pytest.raises(EngineError, match=f"built with TensorRT {version} for compute capability 8.6, running"):
        plans.verify(built, library_flavour="tensorrt", compute_capability="9.0")
    assert build(small_onnx(), device=1).cached
    assert not build(small_onnx(), device=0).cached


def test_float32_is_float32_and_types_come_from_the_file(tensorrt: Any, version: str, small_onnx: SmallOnnx) -> None:
    build(small_onnx())
    # 11 has strong typing without being asked.
    assert told(tensorrt, "network") == [2 if version.startswith("10") else 0]
    assert told(tensorrt, "build") == [[]]
    build(small_onnx(), precision="tf32")
    build(small_onnx(), precision="auto")
    assert told(tensorrt, "build")[1:] == [["TF32"], ["TF32"]]


@only_10
@pytest.mark.parametrize(("precision", "flag"), [("float16", "FP16"), ("bfloat16", "BF16")])
def test_tensorrt_10_makes_16_bits_by_a_flag(tensorrt: Any, small_onnx: SmallOnnx, precision: str, flag: str) -> None:
    build(small_onnx(), precision=precision)
    assert told(tensorrt, "network") == [0]
    assert told(tensorrt, "build") == [[flag, "TF32"]]
    assert told(tensorrt, "parse")[0][1] == [FLOAT32]


@only_10
def test_tensorrt_10_can_be_told_to_take_types_from_the_file(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    build(small_onnx(), precision="float16", strongly_typed=True)
    assert told(tensorrt, "network") == [2]
    assert told(tensorrt, "build") == [["TF32"]]
    assert told(tensorrt, "parse")[0][1] == [FLOAT16]
    build(small_onnx(), strongly_typed=False)
    assert told(tensorrt, "network")[1] == 0


@only_11
def test_tensorrt_11_gets_a_converted_model(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    build(small_onnx(), precision="float16")
    assert told(tensorrt, "network") == [0]
    assert told(tensorrt, "build") == [["TF32"]]
    assert told(tensorrt, "parse")[0][1] == [FLOAT16]
    with pytest.raises(InvalidArgument, match="TensorRT 11.4.0.106 takes the type of every tensor"):
        build(small_onnx(), strongly_typed=False)


def test_every_option_reaches_the_builder(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    built = build(
        small_onnx(),
        workspace_bytes=1 << 30,
        refittable=True,
        weight_streaming=True,
        version_compatible=True,
        hardware_compatible=True,
        builder_flags=["strict_nans"],
    )
    assert told(tensorrt, "pool") == [("WORKSPACE", 1 << 30)]
    assert told(tensorrt, "level") == ["AMPERE_PLUS"]
    assert told(tensorrt, "build") == [["REFIT", "STRICT_NANS", "VERSION_COMPATIBLE", "WEIGHT_STREAMING"]]
    assert told(tensorrt, "profile") == [{"x": ((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))}]
    assert built.manifest.compute_capability == ("8.0+",)
    build(small_onnx(), hardware_compatible="same_compute_capability", profiles=[PROFILE, "x=2x..."])
    assert told(tensorrt, "level")[1:] == ["SAME_COMPUTE_CAPABILITY"]
    assert len(told(tensorrt, "profile")) == 3


def test_the_command_in_a_manifest_builds_the_same(
    tensorrt: Any, small_onnx: SmallOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    from trtlab.cli import main

    monkeypatch.chdir(tmp_path)
    built = build(
        small_onnx(),
        tmp_path / "m.plan",
        precision="tf32",
        workspace_bytes=1 << 30,
        strongly_typed=True,
        refittable=True,
        weight_streaming=True,
        version_compatible=True,
        hardware_compatible="same_compute_capability",
        builder_flags=["STRICT_NANS"],
        profiles=[PROFILE, "x=2x..."],
    )
    command = shlex.split(built.manifest.rebuild_command("again.plan"))
    assert main(command[1:]) == 0
    again = plans.verify("again.plan")[1]
    assert again is not None
    assert again.key == built.manifest.key
    assert len(told(tensorrt, "build")) == 1


def test_what_was_measured_is_kept_for_the_next_build(
    tensorrt: Any, version: str, small_onnx: SmallOnnx, plan_cache: Path, tmp_path: Path
) -> None:
    build(small_onnx())
    (file,) = (plan_cache / "timing").iterdir()
    assert file.name == f"tensorrt-{version}-9.0"
    first = json.loads(file.read_text())
    # Another process measures while this one builds: both results stay.
    tensorrt.during_build.append(lambda: file.write_text('["of another"]'))
    build(small_onnx(), force=True)
    assert told(tensorrt, "timing") == [([], False), (first, False)]
    assert {*first, "of another"} < set(json.loads(file.read_text()))
    tensorrt.during_build.clear()
    build(small_onnx(), force=True, timing_cache=tmp_path / "mine")
    assert (tmp_path / "mine").exists()
    build(small_onnx(), force=True, builder_flags=["DISABLE_TIMING_CACHE"])
    assert len(told(tensorrt, "timing")) == 3


@pytest.mark.parametrize("content", [b"garbage", b'["of another version"]'])
def test_measurements_that_cannot_be_used_are_made_anew(
    tensorrt: Any, small_onnx: SmallOnnx, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine").write_bytes(content)
    build(small_onnx(), timing_cache=tmp_path / "mine")
    assert len(json.loads((tmp_path / "mine").read_text())) == 1


def test_values_that_decide_shapes_are_given_as_values(tensorrt: Any, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "sizes"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(InvalidArgument, match=r"values of input 'sizes' decide shapes.*sizes=1x64:8x64:32x64"):
        build(tmp_path / "m.onnx", profiles=None)
    built = build(tmp_path / "m.onnx", profiles="sizes=1x64:8x64:32x64")
    assert told(tensorrt, "profile") == [{"sizes": ("values", [1, 64], [8, 64], [32, 64])}]
    assert built.manifest.inputs[1] == plans.PlanTensor("sizes", "int64", (2,))


def test_axes_that_share_a_name_which_is_none_are_taken_apart(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    model = onnx.load(small_onnx())
    for axis, name in ((0, "N"), (2, "?"), (3, "?")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    path = small_onnx("named.onnx")
    onnx.save(model, path)
    build(path, profiles="x=1x3x16x16")
    assert told(tensorrt, "set_dimension_name") == [("x", 3, "x.3")]


@pytest.mark.parametrize(
    ("ill", "words"),
    [
        ("parse", "cannot take it: node 'relu' (Relu, number 2): no such thing; node"),
        ("build", "built no plan\nthe builder's log:\nerror: the reason"),
        ("raise", "RuntimeError: a binding's own exception"),
        ("profile", "refuses a profile"),
    ],
)
def test_what_goes_wrong_is_said_in_the_librarys_words(
    tensorrt: Any, version: str, cuda: Cuda, small_onnx: SmallOnnx, ill: str, words: str
) -> None:
    tensorrt.ill.add(ill)
    with pytest.raises((EngineError, InvalidArgument)) as refused:
        build(small_onnx(), device=1)
    assert "small.onnx" in str(refused.value)
    assert f"TensorRT {version}" in str(refused.value)
    assert words in str(refused.value)
    assert cuda.current == 0
    tensorrt.ill.clear()
    assert not build(small_onnx()).cached


def test_the_parsers_list_of_errors_ends_somewhere(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    tensorrt.ill.add("parse")
    with pytest.raises(EngineError, match="; and 5 more$"):
        build(small_onnx())


def test_warnings_are_handed_out(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    tensorrt.ill.add("noisy")
    assert build(small_onnx()).warnings == ("warning: take care",)


def test_a_build_is_called_off_from_its_progress(tensorrt: Any, cuda: Cuda, small_onnx: SmallOnnx) -> None:
    seen: list[float] = []

    def watch(progress: plans.Progress) -> bool:
        seen.append(progress.fraction)
        return progress.fraction < 0.5

    with pytest.raises(Cancelled):
        build(small_onnx(), on_progress=watch)
    assert seen == sorted(seen)
    assert 0.5 <= seen[-1] < 0.8
    assert cuda.current == 0


# Where something is missing.


def test_without_a_gpu_tensorrt_says_what_builds_without_one(
    tensorrt: Any, small_onnx: SmallOnnx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability, "_cuda", lambda: Cuda())
    with pytest.raises(NotFound, match=r'builds nowhere else .device cuda: there are 0.*library="tensorrt_rtx"'):
        build(small_onnx())


@pytest.mark.parametrize(
    ("device", "error"), [("cuda:2", NotFound), (7, NotFound), (1.5, InvalidArgument), (-1, InvalidArgument)]
)
def test_a_gpu_that_is_not_there_is_refused(cuda: Cuda, device: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="device"):
        capability.gpu(device)


def test_a_call_of_cuda_that_fails_is_named(tensorrt: Any, cuda: Cuda, small_onnx: SmallOnnx) -> None:
    cuda.ill = True
    with pytest.raises(CudaError, match="cudaSetDevice answers 46"):
        build(small_onnx())


def test_a_trtlab_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trtlab.cuda", None)
    monkeypatch.delattr(trtlab, "cuda", raising=False)
    with pytest.raises(EngineError, match="built without its part for CUDA"):
        capability.gpu()


def test_tensorrt_builds_for_no_other_gpu(tensorrt: Any, small_onnx: SmallOnnx) -> None:
    assert build(small_onnx(), compute_capability="9.0").manifest.compute_capability == ("9.0",)
    with pytest.raises(InvalidArgument, match="builds for the GPU that it runs on, H100 of 9.0, not for 8.0"):
        build(small_onnx(), compute_capability="8.0")


def test_the_rtx_library_builds_for_the_gpu_named(cuda: Cuda, small_onnx: SmallOnnx) -> None:
    assert build(small_onnx(), library="tensorrt_rtx", device="cuda:1").manifest.compute_capability == ("8.6",)
    with pytest.raises(InvalidArgument, match="give one of the two"):
        build(small_onnx(), library="tensorrt_rtx", device="cuda:1", compute_capability="9.0")


def test_full_tensorrt_comes_first_and_then_rtx(tensorrt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_library(None) == "tensorrt"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert find_library(None) == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (None, ['pip install "trtlab[rtx]"', 'pip install "trtlab[tensorrt]"']),
        ("tensorrt", ['pip install "trtlab[tensorrt]"']),
        ("tensorrt_rtx", ['pip install "trtlab[rtx]"']),
    ],
)
def test_without_a_builder_one_is_told_what_to_install(
    small_onnx: SmallOnnx, monkeypatch: pytest.MonkeyPatch, library: str | None, words: list[str]
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError) as refused:
        build(small_onnx(), library=library)
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('libnvinfer.so.10 is missing')", "RuntimeError: libnvinfer.so.10 is missing"),
        ("__version__ = '10.1'", "is no builder, it has no Builder, OnnxParser"),
    ],
)
def test_a_package_that_is_no_builder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    try:
        with pytest.raises(EngineError) as refused:
            Toolchain.open("tensorrt")
    finally:
        sys.modules.pop("tensorrt", None)
    assert words in str(refused.value)
    assert "trtlab[tensorrt]" in str(refused.value)
