"""Reads lines of text: what happens before and after the PP-OCR orientation classifier and recogniser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from detection import Array, normalised

LINE_HEIGHT = 48
CLASSIFIER_WIDTH = 192
MIN_RECOGNISER_WIDTH = 320
BATCH_SIZE = 6
UPRIGHT_ASPECT = 1.5
"""A box this many times as high as wide holds text that runs upwards."""
UPSIDE_DOWN = 1
"""The classifier's second class; the first is an upright line."""
UPSIDE_DOWN_THRESHOLD = 0.9


def crop(image: Array, box: Array) -> Array:
    """Cuts the box (4, 2) out of the picture (height, width, 3) and straightens it."""
    top_left, top_right, bottom_right, bottom_left = box
    width = int(max(math.dist(top_left, top_right), math.dist(bottom_left, bottom_right)))
    height = int(max(math.dist(top_left, bottom_left), math.dist(top_right, bottom_right)))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    straighten = cv2.getPerspectiveTransform(box, target)
    line = cv2.warpPerspective(
        image, straighten, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.rot90(line) if height >= UPRIGHT_ASPECT * width else line


def batches(lines: Sequence[Array]) -> list[list[int]]:
    """Groups the indices of `lines` into batches of similar aspect, so that little of a batch is padding."""
    order = np.argsort([_aspect(line) for line in lines]).tolist()
    return [order[first : first + BATCH_SIZE] for first in range(0, len(order), BATCH_SIZE)]


def classifier_input(lines: Sequence[Array]) -> Array:
    """The classifier's input (N, 3, 48, 192) for N lines of text."""
    return _batch(lines, CLASSIFIER_WIDTH)


def recogniser_input(lines: Sequence[Array]) -> Array:
    """The recogniser's input (N, 3, 48, W) for N lines of text; W fits the widest and is at least 320."""
    widest = max(_aspect(line) for line in lines)
    return _batch(lines, max(MIN_RECOGNISER_WIDTH, int(LINE_HEIGHT * widest)))


def is_upside_down(scores: Array) -> bool:
    """Whether a line must be turned by 180 degrees, from the classifier's scores (2,) for it."""
    return bool(scores[UPSIDE_DOWN] > UPSIDE_DOWN_THRESHOLD)


def alphabet_from(characters: str) -> list[str]:
    """The recogniser's classes: CTC's blank, what its metadata `character` has on each line, the space."""
    return ["", *characters.splitlines(), " "]


def decode(probability: Array, alphabet: Sequence[str]) -> tuple[str, float]:
    """Reads the recogniser's answer (steps, classes) for one line: its text and score.

    Greedy CTC decoding (Graves et al., "Connectionist Temporal Classification", 2006): the best class of each
    step, runs of the same class joined, blanks dropped. The score is the mean probability of the characters,
    0 for an empty text. Raises `ValueError` if there are more or fewer classes than `alphabet` has names.
    """
    if probability.shape[1] != len(alphabet):
        raise ValueError(
            f"the recogniser's answer has {probability.shape[1]} classes but its alphabet {len(alphabet)}; "
            "take the alphabet from the metadata of the same model"
        )
    best = probability.argmax(axis=1)
    starts = np.flatnonzero((best != 0) & (np.diff(best, prepend=0) != 0))
    if not len(starts):
        return "", 0.0
    score = probability[starts, best[starts]].mean(dtype=np.float64)
    return "".join(alphabet[index] for index in best[starts]), float(score)


def _aspect(line: Array) -> float:
    height, width = line.shape[:2]
    return float(width / height)


def _batch(lines: Sequence[Array], width: int) -> Array:
    """Scales lines to the height of the models and joins them; zeros stand to the right of the shorter."""
    batch = np.zeros((len(lines), 3, LINE_HEIGHT, width), np.float32)
    for row, line in zip(batch, lines, strict=True):
        line_width = min(width, math.ceil(LINE_HEIGHT * _aspect(line)))
        row[:, :, :line_width] = normalised(cv2.resize(line, (line_width, LINE_HEIGHT)))
    return batch
