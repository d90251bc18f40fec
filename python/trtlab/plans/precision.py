"""A float32 ONNX model rewritten to compute in float16 or bfloat16, for builders that take types from the model alone.

Inputs and outputs keep their types. What multiplies matrices (Conv, MatMul, Gemm, ...) runs in the narrow type; what
only moves or combines elements follows its inputs; everything else, where few bits cost accuracy (Exp, Pow, sums,
loops), stays float32. A constant that the narrow type cannot hold keeps its node in float32. Batch normalization is
folded into the convolution before it while its numbers are still float32, for a trained variance may be anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from trtlab.errors import EngineError, InvalidArgument
from trtlab.plans.onnx_file import OnnxFile

__all__ = ["converted"]

_STARTS = {"Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
_FOLLOWS = {
    "Abs", "Add", "AveragePool", "Celu", "Clip", "Concat", "DepthToSpace", "Div", "Dropout", "Elu", "Erf",
    "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Gelu", "GlobalAveragePool", "GlobalMaxPool",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "LogSoftmax", "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "PRelu",
    "Pad", "RMSNormalization", "Reciprocal", "Relu", "Reshape", "Resize", "Selu", "Sigmoid", "Slice",
    "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh",
    "ThresholdedRelu", "Tile", "Transpose", "Unsqueeze", "Upsample", "Where",
}  # fmt: skip
# They ask for a shape, whatever the type.
_SHAPES = {"Shape", "Size"}
# Of these, only the first input has the type of the output.
_FIRST_ONLY = {"Dropout", "Resize", "Upsample"}
_MOST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38}


def converted(model: OnnxFile, precision: str) -> bytes:
    """Return the model as ONNX bytes that compute in ``precision``, external weights included.

    Raises EngineError without the package ``onnx``, InvalidArgument for a model that is quantized, larger than 2 GiB
    after it, or that ``onnx`` cannot read.
    """
    try:
        import onnx
        from onnx import external_data_helper, inliner, shape_inference
    except ImportError as error:
        raise EngineError(
            f"{model.label}: this builder takes types from the ONNX file, and converting one to {precision} needs the "
            f'package onnx ({error}): pip install "onnx>=1.16"; or export the model in {precision}'
        ) from None
    try:
        proto = onnx.load_model_from_string(model.data)
        if model.path is not None and model.external:
            external_data_helper.load_external_data_for_model(proto, str(model.path.parent))
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        conversion = _Conversion(onnx, proto, precision, model.label)
        conversion.hoist_constants()
        conversion.replace_batch_normalization(shape_inference.infer_shapes(proto))
        conversion.rewrite(shape_inference.infer_shapes(proto))
        return bytes(proto.SerializeToString())
    except InvalidArgument:
        raise
    except Exception as error:  # protobuf, onnx and numpy each have their own
        raise InvalidArgument(
            f"{model.label}: cannot be converted to {precision}: {type(error).__name__}: {error}; export the model in "
            f"{precision}, or build it in float32"
        ) from error


class _Conversion:
    def __init__(self, onnx: Any, proto: Any, precision: str, label: str) -> None:
        import numpy as np

        self._np, self._onnx = np, onnx
        self._helper, self._numpy_helper = onnx.helper, onnx.numpy_helper
        self._float32 = onnx.TensorProto.FLOAT
        self._narrow = onnx.TensorProto.FLOAT16 if precision == "float16" else onnx.TensorProto.BFLOAT16
        self._precision = precision
        # TensorRT has no kernels for it: "Could not infer output types for operation: deconv".
        self._starts = _STARTS - {"ConvTranspose"} if precision == "bfloat16" else _STARTS
        self._suffix = "f16" if precision == "float16" else "bf16"
        self._graph = proto.graph
        if any("QuantizeLinear" in node.op_type for node in _all_nodes(self._graph)):
            raise InvalidArgument(
                f"{label}: it is quantized, and its scales say what the rest is computed in: export it with scales in "
                f"{precision}, or build it with precision='float32'"
            )
        weights = {tensor.name: tensor for tensor in self._graph.initializer}
        # Old files list their weights among the inputs too.
        inputs = [one for one in self._graph.input if one.name not in weights]
        if len(inputs) < len(self._graph.input):
            proto.ir_version = max(proto.ir_version, 4)
            del self._graph.input[:]
            self._graph.input.extend(inputs)
        self._weights: dict[str, Any] = weights
        self._names = {name for node in _all_nodes(self._graph) for name in (*node.input, *node.output, node.name)}
        self._names |= set(weights) | {one.name for one in self._graph.input}

    def hoist_constants(self) -> None:
        """Make weights of the graph's float32 Constant nodes."""
        kept = []
        for node in self._graph.node:
            tensor = self._constant(node) if node.op_type == "Constant" else None
            if tensor is None:
                kept.append(node)
            else:
                tensor.name = node.output[0]
                self._add_weight(tensor)
        self._set_nodes(kept)

    def replace_batch_normalization(self, inferred: Any) -> None:
        """Fold it into the convolution before it, or make of it a product and a sum, wherever its numbers are known."""
        np = self._np
        types, ranks = self._types(inferred)
        producers = {name: node for node in self._graph.node for name in node.output}
        uses = self._uses()
        nodes: list[Any] = []
        for node in self._graph.node:
            parts = [self._array(name) for name in node.input[1:5]] if node.op_type == "BatchNormalization" else []
            outputs = [name for name in node.output if name]
            rank = ranks.get(node.input[0]) if parts else None
            if (
                not parts
                or any(part is None for part in parts)
                or len(outputs) != 1
                or node.domain not in ("", "ai.onnx")
            ):
                nodes.append(node)
                continue
            attributes = self._attributes(node)
            scale, bias, mean, variance = (np.asarray(part, np.float64) for part in parts)
            factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
            shift = bias - mean * factor
            convolution = producers.get(node.input[0])
            if convolution is not None and self._fold(convolution, factor, shift, uses):
                convolution.output[0] = outputs[0]
            elif rank is not None and rank >= 2 and types.get(node.input[0]) == self._float32:
                shape = (1, -1) + (1,) * (rank - 2)
                names = [self._unique(f"{outputs[0]}/{word}") for word in ("factor", "shift", "product")]
                for name, value in zip(names[:2], (factor, shift), strict=True):
                    self._add_array(name, value.reshape(shape))
                nodes.append(self._helper.make_node("Mul", [node.input[0], names[0]], [names[2]]))
                nodes.append(self._helper.make_node("Add", [names[2], names[1]], [outputs[0]]))
            else:
                nodes.append(node)
        self._set_nodes(nodes)

    def rewrite(self, inferred: Any) -> None:
        """Choose the type of every node and put casts where the two meet."""
        types, _ = self._types(inferred)
        narrow: dict[str, str] = {}  # by the name in float32: the same in the narrow type, once there is such
        widened: set[str] = set()  # made narrow, and cast back under their own name
        made_narrow: set[str] = set()
        nodes: list[Any] = []

        def narrowed(name: str) -> str:
            if name not in narrow:
                narrow[name] = self._unique(f"{name}/{self._suffix}")
                if name in self._weights:
                    self._add_narrow(narrow[name], name)
                else:
                    nodes.append(self._helper.make_node("Cast", [name], [narrow[name]], to=self._narrow))
            return narrow[name]

        def widen(name: str) -> None:
            if name in made_narrow and name not in widened:
                widened.add(name)
                nodes.append(self._helper.make_node("Cast", [narrow[name]], [name], to=self._float32))

        for node in list(self._graph.node):
            if self._runs_narrow(node, types, made_narrow):
                for place, name in enumerate(node.input):
                    if types.get(name) == self._float32 and (place == 0 or node.op_type not in _FIRST_ONLY):
                        node.input[place] = narrowed(name)
                    else:
                        widen(name)
                for place, name in enumerate(node.output):
                    if types.get(name) == self._float32:
                        narrow[name] = node.output[place] = self._unique(f"{name}/{self._suffix}")
                        made_narrow.add(name)
            elif node.op_type in _SHAPES and node.input[0] in made_narrow:
                node.input[0] = narrow[node.input[0]]
            else:
                for name in (*node.input, *_captured(node)):
                    widen(name)
            nodes.append(node)
        for output in self._graph.output:
            widen(output.name)
        self._set_nodes(nodes)
        self._drop_unused_weights()
        # What it says of the types in between is not so any more.
        del self._graph.value_info[:]

    def _runs_narrow(self, node: Any, types: dict[str, int], made_narrow: set[str]) -> bool:
        names = [name for name in (*node.input, *node.output) if name]
        if node.domain not in ("", "ai.onnx") or any(name not in types for name in names):
            return False
        inputs = list(node.input[:1] if node.op_type in _FIRST_ONLY else node.input)
        floats = [name for name in inputs if types.get(name) == self._float32]
        weights = [name for name in floats if name in self._weights]
        starts = node.op_type in self._starts or (node.op_type == "Gather" and len(weights) == len(floats) > 0)
        follows = node.op_type in _FOLLOWS and any(name in made_narrow for name in floats)
        return bool(floats) and (starts or follows) and all(self._fits(name) for name in weights)

    def _fits(self, weight: str) -> bool:
        np = self._np
        array = self._array(weight)
        if array is None or array.size == 0:
            return array is not None
        sizes = np.abs(array[np.isfinite(array)])
        if sizes.size and sizes.max() > _MOST[self._precision]:
            return False
        # An epsilon that becomes 0 is none any more.
        return bool(array.size > 1 or array.item() == 0 or abs(array.item()) > 2.0**-25 or self._precision != "float16")

    def _fold(self, node: Any, factor: Any, shift: Any, uses: dict[str, int]) -> bool:
        weight = self._array(node.input[1]) if node.op_type == "Conv" else None
        has_bias = len(node.input) > 2 and bool(node.input[2])
        bias = self._array(node.input[2]) if has_bias else 0.0
        if weight is None or bias is None or uses.get(node.output[0]) != 1 or weight.shape[0] != factor.size:
            return False
        weight_name, bias_name = (self._unique(f"{node.output[0]}/{word}") for word in ("weight", "bias"))
        self._add_array(weight_name, weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1)))
        self._add_array(bias_name, bias * factor + shift)
        node.input[1] = weight_name
        if len(node.input) > 2:
            node.input[2] = bias_name
        else:
            node.input.append(bias_name)
        return True

    def _constant(self, node: Any) -> Any:
        """Return the value of a Constant node if it is of float32."""
        attributes = self._attributes(node)
        if "value_float" in attributes or "value_floats" in attributes:
            value = attributes.get("value_float", attributes.get("value_floats"))
            return self._numpy_helper.from_array(self._np.asarray(value, self._np.float32))
        tensor = attributes.get("value")
        # An empty one, as Resize has for its region, is better where it is: TensorRT warns of an empty weight.
        found = tensor is not None and tensor.data_type == self._float32 and 0 not in tensor.dims
        return tensor if found else None

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {attribute.name: self._helper.get_attribute_value(attribute) for attribute in node.attribute}

    def _array(self, name: str) -> Any:
        """Return a float32 weight of the graph; None for anything else."""
        tensor = self._weights.get(name)
        return self._numpy_helper.to_array(tensor) if tensor is not None and tensor.data_type == self._float32 else None

    def _types(self, inferred: Any) -> tuple[dict[str, int], dict[str, int]]:
        types, ranks = {}, {}
        for one in itertools.chain(inferred.graph.input, inferred.graph.output, inferred.graph.value_info):
            if one.type.HasField("tensor_type"):
                types[one.name] = one.type.tensor_type.elem_type
                if one.type.tensor_type.HasField("shape"):
                    ranks[one.name] = len(one.type.tensor_type.shape.dim)
            else:
                types[one.name] = 0  # a sequence or the like
        for tensor in inferred.graph.initializer:
            types[tensor.name] = tensor.data_type
        return types, ranks

    def _uses(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        names = itertools.chain.from_iterable((*node.input, *_captured(node)) for node in self._graph.node)
        for name in itertools.chain(names, (output.name for output in self._graph.output)):
            counts[name] = counts.get(name, 0) + 1
        return counts

    def _add_array(self, name: str, array: Any) -> None:
        self._add_weight(self._numpy_helper.from_array(self._np.asarray(array, self._np.float32), name))

    def _add_weight(self, tensor: Any) -> None:
        self._graph.initializer.append(tensor)
        self._weights[tensor.name] = self._graph.initializer[-1]

    def _add_narrow(self, name: str, source: str) -> None:
        np = self._np
        array = self._array(source)
        if self._precision == "float16":
            self._add_weight(self._numpy_helper.from_array(array.astype(np.float16), name))
            return
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        # To the nearest, to even if there are two. Adding would carry a NaN into infinity.
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        rounded = np.where(np.isnan(array), np.uint16(0x7FC0), rounded.reshape(array.shape)).astype("<u2")
        tensor = self._onnx.TensorProto(name=name, data_type=self._narrow, dims=array.shape, raw_data=rounded.tobytes())
        self._add_weight(tensor)

    def _drop_unused_weights(self) -> None:
        uses = self._uses()
        kept = [tensor for tensor in self._graph.initializer if uses.get(tensor.name)]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _unique(self, name: str) -> str:
        found = next(
            one
            for one in itertools.chain([name], (f"{name}_{n}" for n in itertools.count(1)))
            if one not in self._names
        )
        self._names.add(found)
        return found

    def _set_nodes(self, nodes: Iterable[Any]) -> None:
        kept = list(nodes)
        copies = [type(node)() for node in kept]
        for copy, node in zip(copies, kept, strict=True):
            copy.CopyFrom(node)
        del self._graph.node[:]
        self._graph.node.extend(copies)


def _graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for inner in _graphs(node):
            yield from _all_nodes(inner)


def _captured(node: Any) -> set[str]:
    """Names that the graphs inside of a node use: some are from outside."""
    names: set[str] = set()
    for graph in _graphs(node):
        for inner in _all_nodes(graph):
            names.update(inner.input)
        names.update(output.name for output in graph.output)
    return names - {""}
