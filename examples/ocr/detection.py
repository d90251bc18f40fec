"""Finds lines of text in a picture: what happens before and after the PP-OCR detector.

The detector is a DB network (Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
2020): for every pixel it says how probable it is that the pixel lies in the core of a text line. The core is
the line shrunk on all sides, which keeps neighbours apart, so what is found must be grown again. The
parameters are those that RapidOCR uses with the PP-OCRv4 detector.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import pyclipper  # type: ignore[import-untyped]

Array: TypeAlias = npt.NDArray[Any]
"""What OpenCV takes and gives; docstrings say which shape and dtype."""

SHORT_SIDE = 736
"""Smaller pictures are enlarged until their shorter side has this many pixels."""
STRIDE = 32
"""The network halves its input five times, so both sides must be multiples of this."""
PIXEL_THRESHOLD = 0.3
BOX_THRESHOLD = 0.5
GROWTH = 1.6
"""Distance by which a core grows, in units of its area over its perimeter."""
MIN_CORE_SIDE = 3
MIN_GROWN_SIDE = 5
MIN_BOX_SIDE = 4
MAX_CANDIDATES = 1000
ROW_TOLERANCE = 10
"""Boxes whose top left corners differ by fewer pixels of height than this stand in one row."""


def detector_input(image: Array) -> Array:
    """Turns a picture (height, width, 3) of uint8 into the detector's input (1, 3, H, W) of float32."""
    height, width = image.shape[:2]
    scale = max(1.0, SHORT_SIDE / min(height, width))
    size = round_to_stride(int(width * scale)), round_to_stride(int(height * scale))
    return normalised(cv2.resize(image, size))[np.newaxis]


def round_to_stride(length: int) -> int:
    """The multiple of `STRIDE` nearest to `length`, at least one stride."""
    return max(STRIDE, round(length / STRIDE) * STRIDE)


def normalised(image: Array) -> Array:
    """Turns pixels (height, width, 3) of uint8 into (3, height, width) of float32 in [-1, 1]."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    planes *= 2 / 255
    planes -= 1
    return planes


def find_boxes(probability: Array, width: int, height: int) -> list[Array]:
    """Finds the text lines in the detector's map (H, W) of float32 of a picture of `width` x `height` pixels.

    Returns boxes in reading order. A box is (4, 2) of float32: x and y, in pixels of the picture, of its top
    left, top right, bottom right and bottom left corner, as seen by a reader of upright text.
    """
    mask: Array = (probability > PIXEL_THRESHOLD).astype(np.uint8)
    # Closes the one-pixel gaps that thresholding leaves between the letters of faint lines.
    mask = cv2.dilate(mask, np.ones((2, 2), np.uint8))
    contours = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    scale = np.array([width / mask.shape[1], height / mask.shape[0]])
    limit = np.array([width - 1, height - 1])
    boxes = []
    for contour in contours[:MAX_CANDIDATES]:
        core = cv2.minAreaRect(contour)
        if min(core[1]) < MIN_CORE_SIDE or _mean_inside(probability, cv2.boxPoints(core)) < BOX_THRESHOLD:
            continue
        grown = _grow(core)
        if min(grown[1]) < MIN_GROWN_SIDE:
            continue
        corners = np.round(cv2.boxPoints(grown) * scale)
        box = _clockwise(np.clip(corners, 0, limit)).astype(np.float32)
        if min(math.dist(box[0], box[1]), math.dist(box[0], box[3])) >= MIN_BOX_SIDE:
            boxes.append(box)
    return _in_reading_order(boxes)


def _mean_inside(probability: Array, corners: Array) -> float:
    """The mean probability inside the polygon that `corners` (4, 2) spans on the map."""
    limit = np.array(probability.shape[::-1]) - 1
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, limit).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, limit).astype(int)
    inside = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(inside, [(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(probability[top : bottom + 1, left : right + 1], inside)[0])


def _grow(core: cv2.typing.RotatedRect) -> cv2.typing.RotatedRect:
    """Undoes the shrinking of a core by offsetting its outline."""
    width, height = core[1]
    # Whole pixels, as in RapidOCR: a box that lies one pixel off is at times read differently.
    outline = np.trunc(cv2.boxPoints(core)).astype(int)
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(outline.tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    (grown,) = offset.Execute(GROWTH * width * height / (2 * (width + height)))
    return cv2.minAreaRect(np.array(grown, np.int32))


def _clockwise(corners: Array) -> Array:
    """Orders four corners as top left, top right, bottom right, bottom left."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (by_x[:2], by_x[2:]))
    return np.stack([left[0], right[0], right[1], left[1]])


def _in_reading_order(boxes: list[Array]) -> list[Array]:
    """Orders boxes from top to bottom, and within a row from left to right."""
    ordered: list[Array] = []
    for box in sorted(boxes, key=lambda box: (box[0, 1], box[0, 0])):
        place = len(ordered)
        while place and _stands_before(box, ordered[place - 1]):
            place -= 1
        ordered.insert(place, box)
    return ordered


def _stands_before(box: Array, other: Array) -> bool:
    """Whether `box`, which begins no higher than `other`, stands in its row and to the left of it."""
    return bool(box[0, 1] - other[0, 1] < ROW_TOLERANCE and box[0, 0] < other[0, 0])
