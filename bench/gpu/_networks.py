"""Networks that the GPU benchmarks and tests run, made here from layers: no weights are downloaded.

The big ones are PyTorch modules, since PyTorch is also a rival; the small ones are ONNX graphs of an operation or two.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut; the stride is in the 3x3, as in torchvision ("ResNet v1.5")."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.first = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        # What a branch adds is small, as in a trained network: rounding would grow from block to block otherwise.
        nn.init.constant_(self.third[1].weight, 0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, 4 width, H / stride, W / stride]."""
        return torch.relu(self.third(self.second(self.first(x))) + self.shortcut(x))


def resnet50() -> nn.Module:
    """Return ResNet-50, [N, 3, 224, 224] -> [N, 1000]; He et al. 2015, with 25.6 million weights."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def wide(width: int, depth: int = 6) -> nn.Module:
    """Return plain convolutions of one width, [N, 3, 112, 112] -> [N, 10]: large activations and few weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each added and normalised afterwards, as in BERT."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """[B, S, H] and what is added to the attention's scores, [B, 1, 1, S] -> [B, S, H]."""
        batch, length, hidden = x.shape

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, self.heads, hidden // self.heads).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = torch.softmax(q @ k.transpose(2, 3) * (hidden // self.heads) ** -0.5 + bias, dim=-1)
        x = self.norm_1(x + self.out((scores @ v).transpose(1, 2).reshape(batch, length, hidden)))
        return self.norm_2(x + self.feed(x))


class MiniLM(nn.Module):
    """A transformer of MiniLM-L6's sizes: 6 layers of 384, 12 heads, 30522 words."""

    VOCABULARY = 30522

    def __init__(self, hidden: int = 384, heads: int = 12, layers: int = 6, longest: int = 512) -> None:
        super().__init__()
        self.words = nn.Embedding(self.VOCABULARY, hidden)
        self.positions = nn.Embedding(longest, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads) for _ in range(layers))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Two int64 [B, S], of which the mask is 0 where a word does not count -> [B, S, H]."""
        x = self.norm(self.words(input_ids) + self.positions.weight[: input_ids.shape[1]])
        bias = ((attention_mask == 0).to(x.dtype) * -10000.0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return x


@torch.no_grad()
def calibrated(network: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Set the statistics of batch normalisation from noise, so that random weights give outputs of sensible size."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    network(torch.randn(*shape))
    return network.eval()


def export(
    network: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str], dynamic: Mapping[str, Sequence[str]]
) -> bytes:
    """Return a float32 network as ONNX in float16.

    ``dynamic``: for every tensor, the names of its leading axes that may vary.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is the older one; it needs no further package, and its graph is the plainer.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(enumerate(axes)) for name, axes in dynamic.items()},
        )
    return halved(buffer.getvalue())


def halved(onnx_bytes: bytes) -> bytes:
    """Return the same graph with float16 wherever it says float32: what a CPU traces fast, and a GPU runs fast."""
    model = onnx.load_from_string(onnx_bytes)

    def narrow(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))

    for initializer in model.graph.initializer:
        narrow(initializer)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                narrow(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    return bytes(model.SerializeToString())


def with_axes_of_their_own(onnx_bytes: bytes) -> bytes:
    """Name each dynamic axis of the inputs differently: where all are called "?", they must be equal."""
    model = onnx.load_from_string(onnx_bytes)
    for value in model.graph.input:
        for axis, extent in enumerate(value.type.tensor_type.shape.dim):
            if extent.dim_value <= 0:
                extent.dim_param = f"{value.name}_{axis}"
    return bytes(model.SerializeToString())


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 19,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
}


def elementwise(dtype: str) -> bytes:
    """Return y = x + x, or y = not x for bool, for x [n, 4]."""
    node = helper.make_node("Not", ["x"], ["y"]) if dtype == "bool" else helper.make_node("Add", ["x", "x"], ["y"])
    kind = ELEMENTS[dtype]
    return _model([node], {"x": (kind, ("n", 4))}, {"y": (kind, ("n", 4))})


def to_float8() -> bytes:
    """Return y float8_e4m3fn = round(x float32), [n, 4]."""
    scale = {"scale": np.ones((), np.float32)}
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, (), [0.0])
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    model = onnx.load_from_string(
        _model(
            [helper.make_node("Constant", [], ["zero"], value=zero), node],
            {"x": (TensorProto.FLOAT, ("n", 4))},
            {"y": (TensorProto.FLOAT8E4M3FN, ("n", 4))},
            scale,
        )
    )
    return bytes(model.SerializeToString())


def nonzero() -> bytes:
    """Return the positions of what is not zero: x float32 [n] -> y int64 [1, k], where the values decide about k."""
    return _model(
        [helper.make_node("NonZero", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ("n",))},
        {"y": (TensorProto.INT64, (1, "k"))},
    )


def expanded() -> bytes:
    """Return x float32 [1, 4], repeated to the shape that the values of the input k int64 [2] say."""
    return _model(
        [helper.make_node("Expand", ["x", "k"], ["y"])],
        {"x": (TensorProto.FLOAT, (1, 4)), "k": (TensorProto.INT64, (2,))},
        {"y": (TensorProto.FLOAT, ("m", "l"))},
    )


def perceptron(weights: tuple[np.ndarray, np.ndarray]) -> bytes:
    """Return y = relu(x a) b, float32 [n, 16] -> [n, 8]."""
    return _model(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ("n", 16))},
        {"y": (TensorProto.FLOAT, ("n", 8))},
        {"a": weights[0], "b": weights[1]},
    )


def hungry(weights: tuple[np.ndarray, np.ndarray]) -> bytes:
    """Return two convolutions with 512 channels between them, float32 [n, 16, 128, 128] -> the same: 32 MiB a row."""
    return _model(
        [
            helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "b"], ["y"], pads=[1, 1, 1, 1]),
        ],
        {"x": (TensorProto.FLOAT, ("n", 16, 128, 128))},
        {"y": (TensorProto.FLOAT, ("n", 16, 128, 128))},
        {"a": weights[0], "b": weights[1]},
    )
