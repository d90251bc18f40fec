"""From a picture in a file to a model's input. Pillow is imported when the first one comes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtlab import TensorSpec
from trtlab._arrays import BITS
from trtlab.cli.loading import shape_text
from trtlab.errors import EngineError, InvalidArgument

Array = np.ndarray[Any, Any]

# Pillow's name for the pixels of that many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ImageOptions:
    """How pixels become numbers: (pixel * scale - mean) / std, channel by channel."""

    layout: str = "auto"  #: "NCHW", "NHWC", or "auto": where the spec has 1, 3 or 4 channels
    scale: float | None = None  #: None: 1/255 for floats, 1 for integers
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    bgr: bool = False
    size: tuple[int, int] | None = None  #: height and width, where the spec leaves them open; None: the picture's own


def read_image(file: Path, spec: TensorSpec, options: ImageOptions) -> Array:
    """Read a picture into the shape and dtype of ``spec``; an extent that is fixed resizes it (bilinear)."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise EngineError(
            f"input '{spec.name}': pictures need the package Pillow, which is not installed: pip install trtlab[image]"
        ) from None

    channels_first = _channels_first(spec, options.layout)
    assert spec.shape is not None  # or it would have been refused
    axes = spec.shape[-3:]
    channels_axis, *extents = axes if channels_first else (axes[2], axes[0], axes[1])
    channels = channels_axis if isinstance(channels_axis, int) else 3
    if channels not in MODES:
        raise InvalidArgument(f"input '{spec.name}': {channels} channels; a picture has 1, 3 or 4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                picture = ImageOps.exif_transpose(opened).convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"input '{spec.name}': {file} is no picture that Pillow reads: {error}") from None
    height, width = (
        _extent(spec, options, place, axis, own)
        for place, (axis, own) in enumerate(zip(extents, (picture.height, picture.width), strict=True))
    )
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise InvalidArgument(
            f"input '{spec.name}': {height}x{width} is more than the {Image.MAX_IMAGE_PIXELS} pixels that a picture "
            "may have; choose a smaller --size, or give it as .npy"
        )
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)

    pixels = np.asarray(picture).reshape(height, width, channels)
    if options.bgr and channels == 3:
        pixels = pixels[:, :, ::-1]
    values = _scaled(pixels, spec, options)
    if channels_first:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values if len(spec.shape) == 3 else values[None])


def _extent(spec: TensorSpec, options: ImageOptions, place: int, axis: object, own: int) -> int:
    """Height (place 0) or width (1): the model's if it says one, else what was asked for, else the picture's own."""
    wanted = options.size[place] if options.size is not None else None
    if not isinstance(axis, int):
        return own if wanted is None else wanted
    if wanted not in (None, axis):
        raise InvalidArgument(
            f"--size: expected {('height', 'width')[place]} {axis}, which input '{spec.name}' "
            f"{spec.dtype}[{shape_text(spec.shape)}] fixes, got {wanted}"
        )
    return axis


def size_left_open(spec: TensorSpec, options: ImageOptions) -> bool:
    """Whether a picture's own height or width is what the model gets."""
    if options.size is not None or spec.shape is None:
        return False
    extents = spec.shape[-2:] if _channels_first(spec, options.layout) else spec.shape[-3:-1]
    return not all(isinstance(axis, int) for axis in extents)


def _channels_first(spec: TensorSpec, layout: str) -> bool:
    described = f"input '{spec.name}' {spec.dtype}[{shape_text(spec.shape)}]"
    if spec.shape is None or len(spec.shape) not in (3, 4):
        raise InvalidArgument(f"{described}: a picture needs an input of rank 3 or 4; give it as .npy")
    if layout != "auto":
        return layout == "NCHW"
    first, last = spec.shape[-3] in MODES, spec.shape[-1] in MODES
    if first == last:
        raise InvalidArgument(f"{described}: which axis holds the channels? Say --layout NCHW or --layout NHWC")
    return first


def _scaled(pixels: Array, spec: TensorSpec, options: ImageOptions) -> Array:
    if spec.dtype in (*BITS, "bytes", "bool"):
        raise InvalidArgument(
            f"input '{spec.name}' is {spec.dtype}: a picture becomes floats or integers; give it as .npy"
        )
    dtype = np.dtype(spec.dtype)
    scale = options.scale if options.scale is not None else (1 / 255 if dtype.kind == "f" else 1.0)
    channels = pixels.shape[2]
    for name, values in (("--mean", options.mean), ("--std", options.std)):
        if len(values) not in (1, channels):
            raise InvalidArgument(
                f"{name}: expected 1 or {channels} numbers for input '{spec.name}', got {len(values)}"
            )
    if not all(options.std):
        raise InvalidArgument("--std: 0 is no divisor")
    scaled = (pixels.astype(np.float64) * scale - np.asarray(options.mean)) / np.asarray(options.std)
    if dtype.kind in "iu":
        scaled = np.rint(scaled)
        limits = np.iinfo(dtype)
        if scaled.size and not limits.min <= scaled.min() <= scaled.max() <= limits.max:
            raise InvalidArgument(
                f"input '{spec.name}': scaled pixels from {scaled.min():g} to {scaled.max():g} do not fit {dtype}; "
                "change --scale, --mean or --std"
            )
    converted: Array = scaled.astype(dtype)
    return converted
