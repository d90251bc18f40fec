"""From pictures to a model's input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from PIL import Image
from trtlab.cli.images import ImageOptions, read_image, size_left_open
from trtlab.errors import EngineError, InvalidArgument


def spec(dtype: str, *shape: Any) -> trtlab.TensorSpec:
    return trtlab.TensorSpec("x", dtype, shape)


def test_layouts_follow_from_where_the_channels_are(picture: Path) -> None:
    pixels = np.asarray(Image.open(picture))
    for shape, expected in [
        ((None, 3, None, None), pixels.transpose(2, 0, 1)[None]),
        ((1, 2, 5, 3), pixels[None]),
        ((None, None, None, None), pixels[None]),
        ((3, None, None), pixels.transpose(2, 0, 1)),
        ((None, None, 3), pixels),
    ]:
        options = ImageOptions(layout="NHWC" if shape == (None,) * 4 else "auto")
        array = read_image(picture, spec("uint8", *shape), options)
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, expected)


def test_pixels_are_scaled_shifted_and_divided(picture: Path) -> None:
    pixels = np.asarray(Image.open(picture)).astype(np.float64).transpose(2, 0, 1)[None]
    x = spec("float32", 1, 3, 2, 5)
    np.testing.assert_allclose(read_image(picture, x, ImageOptions()), pixels / 255, rtol=1e-6)
    options = ImageOptions(scale=0.5, mean=(1, 2, 3), std=(4, 5, 6), bgr=True)
    expected = (pixels[:, ::-1] * 0.5 - np.reshape([1, 2, 3], (1, 3, 1, 1))) / np.reshape([4, 5, 6], (1, 3, 1, 1))
    array = read_image(picture, x, options)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_pictures_are_resized_and_turned_to_fit(tmp_path: Path, picture: Path) -> None:
    assert read_image(picture, spec("float16", None, 1, 8, 6), ImageOptions()).shape == (1, 1, 8, 6)
    assert read_image(picture, spec("float32", None, 4, None, 7), ImageOptions()).shape == (1, 4, 2, 7)
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", spec("float32", None, 3, None, None), ImageOptions()).shape == (
        1,
        3,
        4,
        2,
    )


def test_a_size_fills_the_extents_that_are_open(picture: Path) -> None:
    options = ImageOptions(size=(8, 6))
    assert read_image(picture, spec("float32", None, 3, None, None), options).shape == (1, 3, 8, 6)
    assert read_image(picture, spec("float32", None, 8, None, 3), options).shape == (1, 8, 6, 3)
    for x, left_open in (
        (spec("float32", None, 3, None, None), True),
        (spec("float32", None, 3, 8, (4, 9)), True),
        (spec("float32", 2, None, 3), True),
        (spec("float32", None, 3, 8, 6), False),
        (spec("float32", None, 8, 6, 3), False),
    ):
        assert size_left_open(x, ImageOptions()) is left_open
        assert not size_left_open(x, options)


@pytest.mark.parametrize(
    ("x", "options", "word"),
    [
        (spec("float32", None, 3, 4, None), ImageOptions(size=(8, 6)), r"--size: expected height 4, .*'x'.*got 8"),
        (spec("float32", None, 3, None, 7), ImageOptions(size=(8, 6)), r"--size: expected width 7, .*'x'.*got 6"),
        (spec("float32", None, 3, None, None), ImageOptions(size=(10**5, 10**5)), r"100000x100000 .* smaller --size"),
        (spec("float32", None, 3, None, None), ImageOptions(size=(10**50, 1)), "smaller --size"),
        (spec("float32", None, None, None, None), ImageOptions(), "--layout"),
        (spec("float32", None, 3, 224, 3), ImageOptions(), "--layout"),
        (spec("float32", None, 3), ImageOptions(), "rank 3 or 4"),
        (spec("bool", None, 3, None, None), ImageOptions(), "floats or integers"),
        (spec("float32", None, 5, None, None), ImageOptions(layout="NCHW"), "5 channels"),
        (spec("float32", None, 3, None, None), ImageOptions(mean=(1, 2)), "--mean"),
        (spec("float32", None, 3, None, None), ImageOptions(std=(0,)), "--std"),
        (spec("uint8", None, 3, None, None), ImageOptions(mean=(1,)), "do not fit uint8"),
        (spec("int8", None, 3, None, None), ImageOptions(), "do not fit int8"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(
    picture: Path, x: trtlab.TensorSpec, options: ImageOptions, word: str
) -> None:
    with pytest.raises(InvalidArgument, match=word):
        read_image(picture, x, options)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InvalidArgument, match="no picture that Pillow reads"):
        read_image(tmp_path / "x.png", spec("float32", None, 3, None, None), ImageOptions())


def test_a_picture_that_would_fill_the_memory_is_refused(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InvalidArgument, match="decompression bomb"):
        read_image(picture, spec("float32", None, 3, None, None), ImageOptions())


def test_without_pillow_the_message_says_what_to_install(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EngineError, match=r"pip install trtlab\[image\]"):
        read_image(picture, spec("float32", None, 3, None, None), ImageOptions())
