"""Reads the text in a picture with three models: detector, orientation classifier and recogniser.

The pipeline and its parameters are those of PP-OCR (Du et al., "PP-OCR: A Practical Ultra Lightweight OCR
System", 2020) as RapidOCR runs it, so that both read the same text in the same picture.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from detection import Array, detector_input, find_boxes, round_to_stride
from PIL import Image, ImageOps
from recognition import batches, classifier_input, crop, decode, is_upside_down, recogniser_input

MAX_SIDE = 2000
MIN_SIDE = 30
MAX_ASPECT = 8
"""Longer pictures get margins: as the detector enlarges the shorter side, the longer would have no bound."""
MIN_SCORE = 0.5
STAGES = (
    "detector prepare",
    "detector infer",
    "detector boxes",
    "crops",
    "classifier prepare",
    "classifier infer",
    "recogniser prepare",
    "recogniser infer",
    "decode",
)


class TensorSpec(Protocol):
    """One input or output of a model."""

    @property
    def name(self) -> str:
        """Its key in what goes into, or comes out of, the model."""


class Future(Protocol):
    """An answer that may not be there yet."""

    def result(self, timeout: float | None = None) -> Mapping[str, Any]:
        """Waits up to `timeout` seconds for the outputs by name, each something that numpy can view."""


class Model(Protocol):
    """What this pipeline needs of a model; every model of trtlab has it."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs; this pipeline's models have one."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs; this pipeline's models have one."""

    def infer(self, inputs: Mapping[str, Array], /) -> Future:
        """Asks for an answer and returns without waiting for it."""


@dataclass(frozen=True)
class Line:
    """A line of text, its score in 0..1, and its corners (4, 2) in pixels, clockwise from the top left."""

    text: str
    score: float
    box: Array


@dataclass(frozen=True)
class Page:
    """The lines of a picture in reading order, and the seconds that each of `STAGES` took."""

    lines: list[Line]
    seconds: dict[str, float]

    @property
    def infer_seconds(self) -> float:
        """Seconds spent submitting to the models and waiting for them; work done meanwhile does not count."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage.endswith(" infer"))


class Ocr:
    """Reads text with a detector, a classifier and a recogniser.

    Threads: `read` may be called from several at once; it keeps no state between calls.
    """

    def __init__(
        self,
        detector: Model,
        classifier: Model,
        recogniser: Model,
        alphabet: Sequence[str],
        *,
        max_in_flight: int = 4,
        timeout_s: float = 60.0,
    ) -> None:
        """`alphabet` names the recogniser's classes (see `recognition.alphabet_from`).

        `max_in_flight` batches are with a model at a time: enough to keep it busy, and few enough to bound
        the memory of the answers (that to six long lines takes 40 MB). `timeout_s` is for each answer.
        """
        self._detector = detector
        self._classifier = classifier
        self._recogniser = recogniser
        self._alphabet = alphabet
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s

    def read(self, image: Array) -> Page:
        """Reads a picture (height, width, 3) of bytes in the order blue, green, red; blocks until it is read.

        Raises `ValueError` if it is no such picture, and what the models raise.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"expected a picture of shape (height, width, 3) and dtype uint8, got shape {image.shape} "
                f"and dtype {image.dtype}; read_image() makes one of any file"
            )
        watch = _Stopwatch()
        fitted = _fit(image)
        boxes = self._detect(fitted.image, watch)
        with watch("crops"):
            crops = [crop(fitted.image, box) for box in boxes]
        texts = self._recognise(crops, watch)
        lines = [
            Line(text, score, fitted.to_original(box))
            for box, (text, score) in zip(boxes, texts, strict=True)
            if score >= MIN_SCORE
        ]
        return Page(lines, watch.seconds)

    def _detect(self, image: Array, watch: _Stopwatch) -> list[Array]:
        with watch("detector prepare"):
            batch = detector_input(image)
        (answer,) = self._answers(self._detector, [batch], watch, "detector infer")
        with watch("detector boxes"):
            return find_boxes(answer[0, 0], image.shape[1], image.shape[0])

    def _recognise(self, lines: list[Array], watch: _Stopwatch) -> list[tuple[str, float]]:
        groups = batches(lines)

        def classifier_inputs() -> Iterator[Array]:
            for group in groups:
                with watch("classifier prepare"):
                    batch = classifier_input([lines[index] for index in group])
                yield batch

        def recogniser_inputs() -> Iterator[Array]:
            answers = self._answers(self._classifier, classifier_inputs(), watch, "classifier infer")
            for group, answer in zip(groups, answers, strict=True):
                with watch("recogniser prepare"):
                    batch = recogniser_input(
                        [
                            np.rot90(lines[index], 2) if is_upside_down(scores) else lines[index]
                            for index, scores in zip(group, answer, strict=True)
                        ]
                    )
                yield batch

        texts = [("", 0.0)] * len(lines)
        answers = self._answers(self._recogniser, recogniser_inputs(), watch, "recogniser infer")
        for group, answer in zip(groups, answers, strict=True):
            with watch("decode"):
                for index, probability in zip(group, answer, strict=True):
                    texts[index] = decode(probability, self._alphabet)
        return texts

    def _answers(self, model: Model, inputs: Iterable[Array], watch: _Stopwatch, stage: str) -> Iterator[Array]:
        """Yields the answers to `inputs` in order, sending the next inputs before it waits for an answer."""
        in_flight: deque[Future] = deque()

        def oldest() -> Array:
            with watch(stage):
                return np.asarray(in_flight.popleft().result(timeout=self._timeout_s)[model.outputs[0].name])

        for batch in inputs:
            with watch(stage):
                in_flight.append(model.infer({model.inputs[0].name: batch}))
            if len(in_flight) == self._max_in_flight:
                yield oldest()
        while in_flight:
            yield oldest()


def read_image(path: str | os.PathLike[str]) -> Array:
    """Reads any picture that Pillow can as (height, width, 3) bytes in the order blue, green, red.

    What is transparent becomes white, and a photograph is turned as its camera says. Raises `OSError` if
    there is no such file or it is no picture, and `ValueError` if its pixels have no fixed range (32-bit).
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode in ("I", "F"):
            raise ValueError(f"{path}: mode {picture.mode} has no fixed range; make it 8 or 16 bits")
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])


@dataclass(frozen=True)
class _Fitted:
    """A picture of a size that the detector can work with, and the way back to the original's pixels.

    `margin`, `scale` and `limit` (the original's size) are (2,): for x and for y.
    """

    image: Array
    margin: Array
    scale: Array
    limit: Array

    def to_original(self, box: Array) -> Array:
        original: Array = np.clip((box - self.margin) / self.scale, 0, self.limit)
        return original


def _fit(image: Array) -> _Fitted:
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    scale = min(MAX_SIDE / long, max(1.0, MIN_SIDE / short))
    fitted = image
    if scale != 1:
        size = round_to_stride(int(width * scale)), round_to_stride(int(height * scale))
        fitted = cv2.resize(image, size)
    fitted_height, fitted_width = fitted.shape[:2]
    vertical, horizontal = _margin(fitted_height, fitted_width), _margin(fitted_width, fitted_height)
    if vertical or horizontal:
        fitted = cv2.copyMakeBorder(
            fitted, vertical, vertical, horizontal, horizontal, cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
    return _Fitted(
        fitted,
        np.array([horizontal, vertical], np.float32),
        np.array([fitted_width / width, fitted_height / height], np.float32),
        np.array([width, height], np.float32),
    )


def _margin(side: int, other: int) -> int:
    """Pixels to add at either end of `side`, up to a quarter of `other`, if `other` is too long for it."""
    if other <= MAX_ASPECT * side:
        return 0
    return (2 * max(other // MAX_ASPECT, MIN_SIDE) - side) // 2


class _Stopwatch:
    """Adds up the seconds that each stage takes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started
