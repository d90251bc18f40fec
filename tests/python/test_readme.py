"""The README's Python blocks: in order as one program; those that say so on a GPU, which is the fake one here."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
ON_A_GPU = "# on a GPU\n"

# A plan of the fake TensorRT, with the names that the README's have.
RESNET = """trtlab fake plan 1
name resnet
input data float32 -1x3x224x224
output prob float32 -1x3x224x224 = double data
profile data 1x3x224x224 8x3x224x224 32x3x224x224
weights 1024
end
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run_in_order_and_print_what_they_say(tmp_path: Path) -> None:
    files = importlib.metadata.files("rapidocr-onnxruntime") or []
    (recogniser,) = (Path(str(file.locate())) for file in files if file.name == "ch_PP-OCRv4_rec_infer.onnx")
    (tmp_path / "rec.onnx").symlink_to(recogniser)
    program = "\n".join(block for block in blocks("python") if not block.startswith(ON_A_GPU))
    assert program.count("import trtlab") == 1
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    promised = re.search(r"print\(error\)  # (.*)$", program, re.MULTILINE)
    assert promised is not None
    assert promised.group(1) in done.stdout


def test_the_blocks_for_a_gpu_run_on_one(
    python: Callable[[str], str], fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = (block for block in blocks("python") if block.startswith(ON_A_GPU))
    (tmp_path / "resnet50.plan").write_text(RESNET)
    cudart = str(fakes / "libfake_cudart.so")
    monkeypatch.setenv("TRTLAB_CUDART_LIBRARY", cudart)
    monkeypatch.setenv("FAKE_NVINFER_CUDART", cudart)
    monkeypatch.setenv("TRTLAB_TENSORRT_LIBRARY", str(fakes / "fake" / "nvinfer" / "libfake_nvinfer.so"))
    monkeypatch.chdir(tmp_path)
    printed = python(program + "\nassert (probabilities == 2 * images).all()")
    assert "resnet: 1,024 bytes of weights on cuda:0" in printed


def test_every_path_that_the_readme_names_exists() -> None:
    text = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
