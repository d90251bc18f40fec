"""Reads the key-value metadata of an ONNX file without loading the model.

An ONNX file is one protobuf message, `ModelProto`, whose field 14 holds `StringStringEntryProto` messages
(field 1 is the key, field 2 the value). Every other field, the weights among them, is skipped and never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

METADATA_FIELD = 14
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Returns the metadata of the ONNX file at `path`: key to value, empty if the file has none.

    Raises `OSError` if the file cannot be read and `ValueError` if it is not a well-formed protobuf message.
    """
    metadata: dict[str, str] = {}
    with Path(path).open("rb") as file:
        try:
            for field, start, end in _fields(file, 0, os.fstat(file.fileno()).st_size):
                if field == METADATA_FIELD:
                    entry = {
                        number: _read(file, first, last).decode("utf-8")
                        for number, first, last in _fields(file, start, end)
                    }
                    metadata[entry.get(1, "")] = entry.get(2, "")
        except ValueError as error:
            raise ValueError(f"{path}: not an ONNX file: {error}") from error
    return metadata


def _fields(file: BinaryIO, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, end) of each field's payload between two offsets; moves the file."""
    while position < end:
        tag, position = _read_varint(file, position, end)
        field, wire_type = tag >> 3, tag & 7
        size = 0
        if wire_type == LENGTH_DELIMITED:
            size, position = _read_varint(file, position, end)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        elif wire_type == VARINT:
            size = _read_varint(file, position, end)[1] - position
        if field == 0 or wire_type not in (VARINT, FIXED64, LENGTH_DELIMITED, FIXED32):
            raise ValueError(f"unexpected protobuf tag {tag} before byte {position}")
        if position + size > end:
            raise ValueError(f"field {field} needs bytes up to {position + size}, but only {end} are there")
        yield field, position, position + size
        position += size


def _read_varint(file: BinaryIO, position: int, end: int) -> tuple[int, int]:
    file.seek(position)
    value = 0
    # A varint of 64 bits takes at most ten bytes.
    for shift, byte in enumerate(file.read(min(10, end - position))):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise ValueError(f"no complete number at byte {position}")


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
