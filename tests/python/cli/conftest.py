"""What the tests of the command line share: how to call it, and small models in files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trtlab.cli import main


class Said:
    """What a command returned and printed."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call main() in this process."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Said(status, printed.out, printed.err)

    return call


@pytest.fixture
def command() -> Callable[..., list[str]]:
    """Return what starts trtlab as a program of its own."""

    def build(*arguments: object) -> list[str]:
        return [sys.executable, "-m", "trtlab", *map(str, arguments)]

    return build


Port = tuple[str, str, tuple[int | str, ...]]


def ports(ids: list[int], dims: tuple[int | str, ...], names: str = "", precision: str = "FP32") -> str:
    inside = "".join(f"<dim>{dim if isinstance(dim, int) else -1}</dim>" for dim in dims)
    attributes = f' precision="{precision}" names="{names}"' if names else ""
    return "".join(f'<port id="{number}"{attributes}>{inside}</port>' for number in ids)


def ir(inputs: list[Port]) -> str:
    """OpenVINO IR of a model that adds every input to itself: input "x" becomes output "2x"."""
    layers, edges = [], []
    for place, (name, dtype, dims) in enumerate(inputs):
        first = 3 * place
        precision = {"f": "FP", "i": "I", "u": "U"}[dtype[0]] + dtype[1:]
        shape = ",".join(map(str, dims))
        layers.append(
            f'<layer id="{first}" name="{name}" type="Parameter" version="opset1">'
            f'<data shape="{shape}" element_type="{dtype}"/>'
            f"<output>{ports([0], dims, name, precision)}</output></layer>"
            f'<layer id="{first + 1}" name="2{name}" type="Add" version="opset1"><data auto_broadcast="numpy"/>'
            f"<input>{ports([0, 1], dims)}</input><output>{ports([2], dims, '2' + name, precision)}</output></layer>"
            f'<layer id="{first + 2}" name="r{place}" type="Result" version="opset1">'
            f"<input>{ports([0], dims)}</input></layer>"
        )
        for port in (0, 1):
            edges.append(f'<edge from-layer="{first}" from-port="0" to-layer="{first + 1}" to-port="{port}"/>')
        edges.append(f'<edge from-layer="{first + 1}" from-port="2" to-layer="{first + 2}" to-port="0"/>')
    return (
        f'<?xml version="1.0"?><net name="doubles" version="11"><layers>{"".join(layers)}</layers>'
        f"<edges>{''.join(edges)}</edges></net>"
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write a model of `ir` into a file."""

    def save(*inputs: Port) -> Path:
        file = tmp_path / "model.xml"
        file.write_text(ir(list(inputs)))
        return file

    return save


@pytest.fixture
def double(tmp_path: Path, double_ir: bytes) -> Path:
    file = tmp_path / "double.xml"
    file.write_bytes(double_ir)
    return file


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3) * 8
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


# y = 2 x, float32, one to eight rows of four in two profiles: a plan of the fake TensorRT.
TWICE = """trtlab fake plan 1
name twice
layer double
layer cast
input x float32 -1x4
output y float32 -1x4 = double x
profile x 1x4 2x4 4x4
profile x 3x4 6x4 8x4
weights 1024
weights 512
activation 64
aux_streams 1
end
"""


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    file = tmp_path / "twice.plan"
    file.write_text(TWICE)
    return file


@pytest.fixture
def gpu_environment(fakes: Path) -> dict[str, str]:
    """Return an environment with the fake CUDA runtime and the fake TensorRT."""
    cudart = str(fakes / "libfake_cudart.so")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TRTLAB_", "FAKE_", "CUDA_"))},
        "TRTLAB_CUDART_LIBRARY": cudart,
        "TRTLAB_TENSORRT_LIBRARY": str(fakes / "fake" / "nvinfer" / "libfake_nvinfer.so"),
        "FAKE_NVINFER_CUDART": cudart,
    }


@pytest.fixture
def on_gpu(command: Callable[..., list[str]], gpu_environment: dict[str, str]) -> Callable[..., Said]:
    """Run trtlab as a program of its own, on the fake GPU; keywords are environment variables."""

    def call(*arguments: object, **environment: str) -> Said:
        done = subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            env={**gpu_environment, **environment},
            timeout=100,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call
