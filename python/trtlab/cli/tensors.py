"""From what is given on the command line to a model's inputs: files, shapes, random values."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trtlab import Model, TensorSpec
from trtlab._arrays import BITS
from trtlab.cli.doctor import memory
from trtlab.cli.images import ImageOptions, read_image, size_left_open
from trtlab.cli.loading import axis_text, shape_text
from trtlab.cli.terminal import size
from trtlab.errors import Closed, Error, InvalidArgument, NotFound, OutOfMemory

Array = np.ndarray[Any, Any]

# While an array is drawn and converted, an element takes as much; what numpy lacks goes through lists of Python floats.
BYTES_AN_ELEMENT = 8
BYTES_AN_ELEMENT_OF_A_LIST = 40
# Where the kernel does not tell what memory is available.
MAX_BYTES = 2**40


@contextmanager
def blaming(guessed: Sequence[str]) -> Iterator[None]:
    """Put what was guessed in front of the error with which the model refuses it."""
    try:
        yield
    except Closed:
        raise
    except Error as error:
        if not guessed:
            raise
        raise type(error)(f"{'; '.join(guessed)}. With that: {error}") from error


def split_name(text: str, model: Model, what: str) -> tuple[TensorSpec, str]:
    """Split "name=rest"; the name may be left out if the model has one input, and may hold "=" itself."""
    specs = model.inputs
    named = [spec for spec in specs if text.startswith(f"{spec.name}=")]
    if named:
        spec = max(named, key=lambda spec: len(spec.name))
        return spec, text[len(spec.name) + 1 :]
    if len(specs) == 1 and ("=" not in text or Path(text).is_file()):
        return specs[0], text
    raise NotFound(
        f"{what} {text!r}: expected NAME=... with an input of model '{model.name}': "
        + ", ".join(f"{spec.name} {spec.dtype}[{shape_text(spec.shape)}]" for spec in specs)
    )


def read_inputs(texts: Sequence[str], model: Model, image: ImageOptions) -> tuple[dict[str, Array], list[str]]:
    """Read every "name=file"; files for the same name are joined along the first axis.

    Also says in words which axes a picture's own size had to fill.
    """
    parts: dict[str, list[Array]] = {}
    pictures: dict[str, TensorSpec] = {}
    for text in texts:
        if text.endswith(".npz") and Path(text).is_file():
            for name, array in _read_npz(Path(text)).items():
                parts.setdefault(name, []).append(array)
            continue
        spec, file = split_name(text, model, "--input")
        path = Path(file)
        if not path.is_file():
            raise NotFound(f"input '{spec.name}': there is no file {path}")
        if path.suffix in (".npy", ".npz"):
            array = _read_saved(path, spec)
        else:
            array = read_image(path, spec, image)
            if size_left_open(spec, image):
                pictures[spec.name] = spec
        parts.setdefault(spec.name, []).append(array)
    arrays = {name: _joined(name, found) for name, found in parts.items()}
    guessed = [
        f"input '{name}' {spec.dtype}[{shape_text(spec.shape)}] leaves the picture's size open; taken is its own, "
        f"{shape_text(arrays[name].shape)}, --size HEIGHTxWIDTH says otherwise"
        for name, spec in pictures.items()
    ]
    return arrays, guessed


def parse_shapes(texts: Sequence[str], model: Model) -> dict[str, tuple[int, ...]]:
    """Parse every "name=1x3x224x224" (commas do too)."""
    shapes = {}
    for text in texts:
        spec, dims = split_name(text, model, "--shape")
        try:
            shape = tuple(int(dim) for dim in dims.replace("x", ",").split(",")) if dims else ()
        except ValueError:
            raise InvalidArgument(f"--shape {text!r}: expected a shape like 1x3x224x224, got {dims!r}") from None
        if any(dim < 0 for dim in shape):
            raise InvalidArgument(f"--shape {text!r}: an extent is at least 0")
        shapes[spec.name] = shape
    return shapes


def random_inputs(
    model: Model, shapes: dict[str, tuple[int, ...]], batch: int | None, seed: int
) -> tuple[dict[str, Array], list[str]]:
    """Make an array for every input, the same for the same seed, and say in words which axes had to be guessed.

    Floats are in [0, 1). Integers are 0 or 1: valid as an index into any table, and as a mask.
    """
    generator = np.random.default_rng(seed)
    arrays, guessed = {}, []
    for spec in model.inputs:
        shape = shapes.get(spec.name)
        if shape is None:
            if spec.shape is None:
                raise InvalidArgument(f"input '{spec.name}' takes any rank: say which with --shape {spec.name}=...")
            shape = tuple(_extent(axis, batch if index == 0 else None) for index, axis in enumerate(spec.shape))
            axes = [
                f"{index} ({axis_text(axis)})"
                for index, axis in enumerate(spec.shape)
                if not isinstance(axis, int) and (index > 0 or batch is None)
            ]
            if axes and axes != ["0 (?)"]:
                guessed.append(
                    f"input '{spec.name}' leaves axis {', '.join(axes)} open; taken is {shape_text(shape)}, "
                    f"--shape {spec.name}=... says otherwise"
                )
        arrays[spec.name] = _random(generator, spec, shape)
    return arrays, guessed


def _extent(axis: int | None | tuple[int, int | None], wanted: int | None) -> int:
    if isinstance(axis, int):
        return axis
    if wanted is not None:
        return wanted
    return 1 if axis is None else max(1, axis[0])


def _random(generator: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    # Before numpy tries: an extent too many is a slip, and should not take the machine's memory.
    elements = 1
    for dim in shape:
        elements *= dim
    needed = elements * (BYTES_AN_ELEMENT_OF_A_LIST if spec.dtype in BITS else BYTES_AN_ELEMENT)
    available = memory()["available_bytes"] or MAX_BYTES
    if needed > available:
        raise OutOfMemory(
            f"input '{spec.name}': {shape_text(shape)} has {elements} elements, for which {size(needed)} are needed, "
            f"and {size(available)} are available; choose a smaller one with --shape"
        )
    try:
        return _drawn(generator, spec, shape)
    except MemoryError as error:
        raise OutOfMemory(
            f"input '{spec.name}': {shape_text(shape)} does not fit into memory; choose a smaller one with --shape "
            f"({error})"
        ) from None
    except ValueError as error:
        raise InvalidArgument(
            f"input '{spec.name}': {shape_text(shape)} makes no array; choose another with --shape ({error})"
        ) from None


def _drawn(generator: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    if spec.dtype == "bytes":
        return np.full(shape, b"trtlab", dtype="S6")
    if spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(np.bool_)
    if spec.dtype in BITS:
        return generator.random(shape, np.float32).tolist()
    if spec.dtype.startswith("float"):
        return generator.random(shape, np.float32).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _read_saved(file: Path, spec: TensorSpec) -> Array:
    if file.suffix == ".npz":
        arrays = _read_npz(file)
        if spec.name in arrays:
            return arrays[spec.name]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        raise NotFound(
            f"input '{spec.name}': {file} holds {', '.join(arrays) or 'nothing'}; expected '{spec.name}' or one array"
        )
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise InvalidArgument(f"input '{spec.name}': {file} is no array that numpy reads: {error}") from None


def _read_npz(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InvalidArgument(f"{file} is no archive of arrays that numpy reads: {error}") from None


def _joined(name: str, arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        shapes = ", ".join(f"{array.dtype}[{shape_text(array.shape)}]" for array in arrays)
        raise InvalidArgument(
            f"input '{name}': {len(arrays)} files do not make one batch: {shapes} ({error})"
        ) from None
