"""What has to be known of an ONNX file before anybody parses it: inputs, external data, and what it hashes to.

Read from the protobuf wire format itself, so that a cached plan is found on machines that have no ``onnx`` package, and
without unpacking the weights. The file is a stranger's: every length is checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtlab.errors import InvalidArgument, NotFound
from trtlab.manager import shown

__all__ = ["Input", "OnnxFile", "read_onnx"]

_MOST_BYTES = 2**31 - 1  # of a protobuf message
_MOST_NESTED = 32
_MOST_INPUTS = 10_000
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8_e4m3fn", 19: "float8_e5m2",
    21: "uint4", 22: "int4", 23: "float4_e2m1fn",
}  # fmt: skip
_FLOAT32 = 1


@dataclass(frozen=True)
class Input:
    """An input of a model: an axis is a number, the name of a size, or None; ``shape`` None is any rank."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @property
    def dynamic(self) -> bool:
        """Whether some axis has no fixed size."""
        return self.shape is None or not all(isinstance(size, int) for size in self.shape)

    @property
    def elements(self) -> int:
        """How many elements; -1 if that is not fixed."""
        count = 1
        for size in self.shape or ():
            if not isinstance(size, int):
                return -1
            count *= size
        return -1 if self.shape is None else count

    @property
    def may_hold_a_shape(self) -> bool:
        """Whether its values might be sizes: a few integers."""
        return self.dtype in ("int32", "int64") and self.shape is not None and len(self.shape) <= 1 and not self.dynamic

    @property
    def shape_text(self) -> str:
        """Return "?x3x?x?"; the names of sizes as they are."""
        if self.shape is None:
            return "any"
        return "x".join("?" if size is None else str(size) for size in self.shape)


@dataclass(frozen=True)
class OnnxFile:
    """A model as bytes, with where they came from. ``label`` is for messages: the path as it was given."""

    label: str
    path: Path | None
    data: bytes = field(repr=False)
    inputs: tuple[Input, ...]
    external: tuple[tuple[str, Path], ...]
    """Files that hold weights: the location that the model says, and the path."""
    has_float32: bool
    """Whether an input or a weight is of float32."""
    sha256: str
    external_sha256: tuple[tuple[str, str], ...]

    @property
    def file_name(self) -> str:
        """The file's name without its folder; "model.onnx" for bytes."""
        return "model.onnx" if self.path is None else self.path.name


class _Malformed(Exception):
    pass


def read_onnx(model: Any) -> OnnxFile:
    """Read and hash a model: a path, or its bytes.

    Raises NotFound (no such file, or no file with its weights), InvalidArgument (not an ONNX model; weights outside of
    the model's folder). Blocks while it reads; memory for the file itself, not for external weights.
    """
    if isinstance(model, (bytes, bytearray, memoryview)):
        label, path, data = "the model", None, bytes(model)
    else:
        try:
            label = os.fspath(model)
        except TypeError:
            raise InvalidArgument(
                f"model: expected the path of an ONNX file or its bytes, got a {type(model).__name__}"
            ) from None
        if not isinstance(label, str) or "\0" in label:
            raise InvalidArgument(f"model: expected a path as str without NUL, got {shown(label)}")
        path = Path(label)
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise InvalidArgument(
                    f"{label}: an ONNX file has at most 2 GiB, this has {path.stat().st_size} bytes; save its weights "
                    "as external data (onnx.save_model(..., save_as_external_data=True))"
                )
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{label}: no such file") from None
        except IsADirectoryError:
            raise InvalidArgument(f"{label}: expected an ONNX file, this is a folder") from None
    facts = _Facts()
    try:
        _model(memoryview(data), facts)
    except (_Malformed, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{label}: not an ONNX model, or a damaged one: {error}") from None
    external = tuple((location, _external(label, path, location)) for location in sorted(facts.locations))
    return OnnxFile(
        label=label,
        path=path,
        data=data,
        inputs=tuple(one for one in facts.inputs if one.name not in facts.initializers),
        external=external,
        has_float32=facts.has_float32 or any(one.dtype == "float32" for one in facts.inputs),
        sha256=hashlib.sha256(data).hexdigest(),
        external_sha256=tuple((location, _file_sha256(label, file)) for location, file in external),
    )


def _external(label: str, path: Path | None, location: str) -> Path:
    if path is None:
        raise InvalidArgument(
            f"{label}: its weights are in the file {location!r}: give the path of the model, not bytes"
        )
    folder = path.parent.resolve()
    if not location or "\0" in location or not (folder / location).resolve().is_relative_to(folder):
        raise InvalidArgument(f"{label}: its weights would be in {location!r}, which is not below the model's folder")
    return folder / location


def _file_sha256(label: str, file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        raise NotFound(f"{label}: its weights are in {file}, and there is no such file") from None
    except IsADirectoryError:
        raise InvalidArgument(f"{label}: its weights are in {file}, which is a folder") from None
    return digest.hexdigest()


class _Facts:
    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.initializers: set[str] = set()
        self.locations: set[str] = set()
        self.has_float32 = False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field; a length-delimited value as a view, fixed-size ones not at all."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _Malformed("a field without a number")
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
        elif wire == 2:
            length, place = _varint(message, place)
            if length > end - place:
                raise _Malformed("a field is longer than the file")
            yield number, message[place : place + length]
            place += length
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
            if place > end:
                raise _Malformed("a field is longer than the file")
        else:
            raise _Malformed(f"a field of wire type {wire}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise _Malformed("a number is cut off")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Malformed("a number where a message is expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_view(value)).decode()


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _Malformed("a message where a number is expected")
    return value - 2**64 if value >= 2**63 else value


def _model(message: memoryview, facts: _Facts) -> None:
    graphs = 0
    for number, value in _fields(message):
        if number == 7:
            graphs += 1
            _graph(_view(value), facts, 0)
        elif number == 25:
            for inner, node in _fields(_view(value)):
                if inner == 7:
                    _node(_view(node), facts, 1)
    if graphs != 1:
        raise _Malformed(f"it holds {graphs or 'no'} graph{'s' if graphs else ''}")


def _graph(message: memoryview, facts: _Facts, depth: int) -> None:
    if depth > _MOST_NESTED:
        raise _Malformed(f"graphs nested deeper than {_MOST_NESTED}")
    for number, value in _fields(message):
        if number == 1:
            _node(_view(value), facts, depth)
        elif number == 5:
            name = _tensor(_view(value), facts)
            if depth == 0:
                facts.initializers.add(name)
        elif number == 15:
            name = _sparse(_view(value), facts)
            if depth == 0:
                facts.initializers.add(name)
        elif number == 11 and depth == 0:
            facts.inputs.append(_input(_view(value)))
            if len(facts.inputs) > _MOST_INPUTS:
                raise _Malformed(f"more than {_MOST_INPUTS} inputs")


def _node(message: memoryview, facts: _Facts, depth: int) -> None:
    for number, value in _fields(message):
        if number != 5:
            continue
        for part, inner in _fields(_view(value)):
            if part in (5, 10):
                _tensor(_view(inner), facts)
            elif part in (6, 11):
                _graph(_view(inner), facts, depth + 1)
            elif part in (22, 23):
                _sparse(_view(inner), facts)


def _sparse(message: memoryview, facts: _Facts) -> str:
    """Note its values and its indices, and return the name, which is that of the values."""
    name = ""
    for part, tensor in _fields(message):
        if part == 1:
            name = _tensor(_view(tensor), facts)
        elif part == 2:
            _tensor(_view(tensor), facts)
    return name


def _tensor(message: memoryview, facts: _Facts) -> str:
    """Note type and location of a tensor, and return its name."""
    name, kind, location, external = "", 0, None, False
    for number, value in _fields(message):
        if number == 2:
            kind = _number(value)
        elif number == 8:
            name = _text(value)
        elif number == 13:
            entry = {part: _text(text) for part, text in _fields(_view(value)) if part in (1, 2)}
            if entry.get(1) == "location":
                location = entry.get(2, "")
        elif number == 14:
            external = _number(value) == 1
    facts.has_float32 |= kind == _FLOAT32
    if external:
        if location is None:
            raise _Malformed(f"the weight {name!r} lies in an external file that is not named")
        facts.locations.add(location)
    return name


def _input(message: memoryview) -> Input:
    name, dtype, shape = "", "unknown", None
    for number, value in _fields(message):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, tensor in _fields(_view(value)):
                if kind != 1:
                    dtype = "no tensor"
                    continue
                for part, inner in _fields(_view(tensor)):
                    if part == 1:
                        dtype = _DTYPES.get(_number(inner), f"type {_number(inner)}")
                    elif part == 2:
                        shape = tuple(_axis(_view(axis)) for one, axis in _fields(_view(inner)) if one == 1)
    return Input(name, dtype, shape)


def _axis(message: memoryview) -> int | str | None:
    size: int | str | None = None
    for number, value in _fields(message):
        if number == 1:
            # Some exporters say -1 for an axis that they leave open.
            size = _number(value) if _number(value) >= 0 else None
        elif number == 2:
            size = _text(value) or None
    return size
