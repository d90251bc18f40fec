"""What is read of an ONNX file without its parser, and its conversion to 16 bits, against onnxruntime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from trtlab.errors import EngineError, InvalidArgument, NotFound
from trtlab.plans.onnx_file import read_onnx
from trtlab.plans.precision import converted

SmallOnnx = Callable[..., Path]


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], opset: int = 17) -> bytes:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def floats(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def run(data: bytes, **inputs: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@pytest.mark.parametrize("name", ["det", "rec", "cls", "minilm", "silero", "silero-ifless", "magika", "orientation"])
def test_inputs_are_what_the_onnx_package_says(model_file: Callable[[str], Path], name: str) -> None:
    found = read_onnx(model_file(name))
    graph = onnx.load(model_file(name), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    expected = [
        (
            one.name,
            tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None
                for dim in one.type.tensor_type.shape.dim
            ),
        )
        for one in graph.input
        if one.name not in weights
    ]
    assert [(one.name, one.shape) for one in found.inputs] == expected
    assert found.sha256 == hashlib.sha256(model_file(name).read_bytes()).hexdigest()
    assert found.external == ()


def test_external_weights_are_part_of_the_hash(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    file = small_onnx(external="weights.bin")
    before = read_onnx(file)
    assert [location for location, _ in before.external_sha256] == ["weights.bin"]
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    after = read_onnx(file)
    assert after.sha256 == before.sha256
    assert after.external_sha256 != before.external_sha256
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(NotFound, match=r"weights\.bin"):
        read_onnx(file)
    with pytest.raises(InvalidArgument, match="give the path of the model"):
        read_onnx(file.read_bytes())


def test_external_weights_of_constants_in_nodes_are_found(tmp_path: Path) -> None:
    tensor = TensorProto(name="inner", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="inner.bin")
    then = helper.make_graph([helper.make_node("Constant", [], ["t"], value=tensor)], "then", [], [floats("t", [2])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=then)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [floats("y", [2])]
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (tmp_path / "inner.bin").write_bytes(bytes(8))
    assert [location for location, _ in read_onnx(tmp_path / "m.onnx").external] == ["inner.bin"]


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", ""])
def test_weights_outside_of_the_models_folder_are_refused(small_onnx: SmallOnnx, tmp_path: Path, location: str) -> None:
    proto = onnx.load(small_onnx(external="weights.bin"), load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (tmp_path / "bad.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidArgument, match="not below the model's folder"):
        read_onnx(tmp_path / "bad.onnx")


def test_a_link_that_leads_out_of_the_models_folder_is_refused(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    file = small_onnx("model/m.onnx", external="weights.bin")
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(InvalidArgument, match="not below the model's folder"):
        read_onnx(file)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x0b\x00"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InvalidArgument, match=r"m\.onnx: not an ONNX model"):
        read_onnx(tmp_path / "m.onnx")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.onnx: no such file"):
        read_onnx(tmp_path / "nowhere.onnx")
    for wrong in (tmp_path, 7, b"", "a\0b"):
        with pytest.raises(InvalidArgument):
            read_onnx(wrong)


SEED = model(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    [floats("x", ["N", 4])],
    [floats("y", ["N", 2])],
    {"w": np.ones((4, 2), np.float32)},
)


@settings(deadline=None)
@given(st.integers(0, len(SEED)), st.binary(max_size=12), st.integers(0, 12))
def test_no_damage_raises_anything_else(place: int, noise: bytes, drop: int) -> None:
    for data in (noise, SEED[:place] + noise + SEED[place + drop :], SEED[:place]):
        try:
            read_onnx(data)
        except InvalidArgument:
            continue


def test_graphs_in_graphs_without_end_are_refused() -> None:
    def field(number: int, body: bytes) -> bytes:
        length, size = len(body), b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + body

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(InvalidArgument, match="nested deeper"):
        read_onnx(field(7, graph))


# Conversion.


@pytest.mark.parametrize(
    ("name", "shape", "tolerance"),
    [
        ("cls", (2, 3, 48, 192), 2e-3),
        ("rec", (2, 3, 48, 160), 5e-2),
        ("det", (1, 3, 160, 160), 2e-3),
        ("orientation", (2, 3, 224, 224), 5e-3),
    ],
)
def test_a_model_in_float16_answers_as_in_float32(
    model_file: Callable[[str], Path], name: str, shape: tuple[int, ...], tolerance: float
) -> None:
    file = read_onnx(model_file(name))
    data = converted(file, "float16")
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    (expected,), (got,) = run(file.data, x=x), run(data, x=x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    # It is not the old model: most weights are half as wide.
    assert len(data) < 0.6 * len(file.data)


def test_a_variance_that_16_bits_cannot_hold_is_folded_first(small_onnx: SmallOnnx) -> None:
    file = read_onnx(small_onnx())
    x = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
    data = converted(file, "float16")
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_from_string(data).graph.node}
    (expected,), (got,) = run(file.data, x=x), run(data, x=x)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, rtol=5e-3, atol=5e-3 * np.abs(expected).max())


def test_a_batch_norm_behind_no_convolution_becomes_a_product_and_a_sum() -> None:
    rng = np.random.default_rng(2)
    weights = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("s", "b", "m", "v")}
    weights["w"] = rng.standard_normal((2, 4, 1, 1)).astype(np.float32)
    data = model(
        [
            helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("Conv", ["r", "w"], ["y"]),
        ],
        [floats("x", ["N", 4, "H", "W"])],
        [floats("y", ["N", 2, "H", "W"])],
        weights,
    )
    x = rng.standard_normal((2, 4, 5, 5)).astype(np.float32)
    made = converted(read_onnx(data), "float16")
    np.testing.assert_allclose(run(made, x=x)[0], run(data, x=x)[0], rtol=0, atol=2e-2)


def test_external_weights_are_in_the_converted_model(small_onnx: SmallOnnx) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    inside, outside = (read_onnx(small_onnx(f"{word}.onnx", external=word and "w.bin")) for word in ("", "out"))
    np.testing.assert_array_equal(run(converted(inside, "float16"), x=x)[0], run(converted(outside, "float16"), x=x)[0])


def test_what_16_bits_cannot_hold_stays_float32() -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "big": np.float32(1e6), "eps": np.float32(1e-12)}
    data = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Mul", ["a", "big"], ["b"]),
            helper.make_node("Sub", ["a", "a"], ["z"]),
            helper.make_node("Add", ["z", "eps"], ["e"]),
            helper.make_node("Div", ["b", "e"], ["y"]),
        ],
        [floats("x", ["N", 4])],
        [floats("y", ["N", 4])],
        weights,
    )
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(run(converted(read_onnx(data), "float16"), x=x)[0], 1e18, rtol=1e-3)


def test_graphs_inside_of_nodes_find_what_they_use_in_float32() -> None:
    def branch(scale: float) -> Any:
        return helper.make_graph(
            [
                helper.make_node("Constant", [], ["k"], value_float=scale),
                helper.make_node("Mul", ["h", "k"], ["o"]),
            ],
            "branch",
            [],
            [floats("o", ["N", 4])],
        )

    data = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("If", ["c"], ["y"], then_branch=branch(2.0), else_branch=branch(3.0)),
        ],
        [floats("x", ["N", 4]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [floats("y", ["N", 4])],
        {"w": np.eye(4, dtype=np.float32)},
    )
    x = np.ones((1, 4), np.float32)
    made = converted(read_onnx(data), "float16")
    assert run(made, x=x, c=np.array(True))[0].tolist() == [[2.0] * 4]
    assert run(made, x=x, c=np.array(False))[0].tolist() == [[3.0] * 4]


def test_an_output_in_the_middle_keeps_name_and_type() -> None:
    data = model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        [floats("x", ["N", 4])],
        [floats("h", ["N", 4]), floats("y", ["N", 4])],
        {"w": -np.eye(4, dtype=np.float32)},
    )
    h, y = run(converted(read_onnx(data), "float16"), x=np.ones((1, 4), np.float32))
    assert (h.dtype, y.dtype) == (np.float32, np.float32)
    assert h.tolist() == [[-1.0] * 4]
    assert y.tolist() == [[0.0] * 4]


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    values = np.array([[1.0, 1.00390625, 1.01171875, -3.0e38, np.inf, np.nan, 1e-40, 0.0]], np.float32).T
    data = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [floats("x", ["N", 8])], [floats("y", ["N", 1])], {"w": values}
    )
    made = onnx.load_from_string(converted(read_onnx(data), "bfloat16"))
    (weight,) = made.graph.initializer
    assert weight.data_type == TensorProto.BFLOAT16
    bits = np.frombuffer(weight.raw_data, "<u2").astype(np.uint32) << 16
    got = bits.view(np.float32)
    # 1 + 2^-8 lies in the middle and goes to the even one, 1 + 3 * 2^-8 too: that is 1 + 2^-6.
    assert got[:3].tolist() == [1.0, 1.0, 1.015625]
    assert got[4] == np.inf
    assert np.isnan(got[5])
    assert abs(got[3] / -3.0e38 - 1) < 2**-8


def test_a_quantized_model_is_refused(small_onnx: SmallOnnx) -> None:
    data = model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [floats("x", ["N", 4])],
        [floats("y", ["N", 4])],
        {"s": np.float32(0.1), "z": np.int8(0)},
    )
    with pytest.raises(InvalidArgument, match="it is quantized"):
        converted(read_onnx(data), "float16")


def test_without_the_onnx_package_a_conversion_says_what_to_install(
    small_onnx: SmallOnnx, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    file = read_onnx(small_onnx())
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineError, match=r'pip install "onnx>=1\.16"'):
        converted(file, "float16")
