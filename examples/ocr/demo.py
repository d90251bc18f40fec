#!/usr/bin/env python3
"""Reads a scanned page with trtlab: prints the text, draws boxes, says where the time went, and benches.

The models are PP-OCRv4's, from the package rapidocr-onnxruntime, of which nothing else is used; the page is
the one that scikit-image ships. Needs no network and no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import trtlab
from detection import Array
from ocr import STAGES, Ocr, Page, read_image
from onnx_metadata import read_metadata
from PIL import Image, ImageDraw
from recognition import alphabet_from

MODELS = {
    "ocr-det": "ch_PP-OCRv4_det_infer.onnx",
    "ocr-cls": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "ocr-rec": "ch_PP-OCRv4_rec_infer.onnx",
}
BOX_COLOUR = (220, 30, 30)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0 if text was found, 1 if none was, and 2 if something went wrong."""
    options = _parse(arguments)
    try:
        models = find_models()
        image = read_image(options.image) if options.image else page_of_scikit_image()
        page = _read(models, image)
        draw_boxes(image, page, options.output)
        if not page.lines:
            print("failed: no text found", file=sys.stderr)
            return 1
        if options.bench > 0:
            _bench(models["ocr-rec"], options.bench)
    except (OSError, ValueError, trtlab.errors.Error, Image.DecompressionBombError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 2
    print(f"\nok: {len(page.lines)} lines of text, boxes drawn into {options.output}")
    return 0


def find_models() -> dict[str, Path]:
    """Returns the ONNX file of each of `MODELS`; raises `FileNotFoundError` if one is missing."""
    # Looked up, not imported: importing the package would load onnxruntime.
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "the package rapidocr-onnxruntime, which holds the models, is not installed; "
            "python -m pip install --no-deps --ignore-requires-python -r examples/ocr/models.txt"
        )
    files = {name: Path(package.origin).parent / "models" / file for name, file in MODELS.items()}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; install the version that models.txt names")
    return files


def page_of_scikit_image() -> Array:
    """Returns the scanned page that scikit-image ships: (191, 384, 3) bytes."""
    return np.asarray(cv2.cvtColor(skimage.data.page(), cv2.COLOR_GRAY2BGR), np.uint8)  # type: ignore[no-untyped-call]


def load(manager: trtlab.InferenceManager, models: dict[str, Path]) -> Ocr:
    """Loads the three models into `manager` and puts them together."""
    characters = read_metadata(models["ocr-rec"]).get("character")
    if characters is None:
        raise ValueError(f"{models['ocr-rec']}: its metadata holds no 'character', the recogniser's alphabet")
    detector, classifier, recogniser = (manager.load(name, models[name]) for name in MODELS)
    return Ocr(detector, classifier, recogniser, alphabet_from(characters))


def draw_boxes(image: Array, page: Page, file: Path) -> None:
    """Draws the outline of every line of `page` into a copy of `image` and writes it to `file` as PNG."""
    picture = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    pen = ImageDraw.Draw(picture)
    for line in page.lines:
        pen.polygon([(float(x), float(y)) for x, y in line.box], outline=BOX_COLOUR)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, format="PNG")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--image", type=Path, help="the picture to read (default: the page of scikit-image)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "out" / "boxes.png",
        help="where the picture with the boxes goes, as PNG (default: %(default)s)",
    )
    parser.add_argument(
        "--bench", type=float, default=2.0, metavar="SECONDS", help="for how long to bench; 0: not at all"
    )
    return parser.parse_args(arguments)


def _read(models: dict[str, Path], image: Array) -> Page:
    started = time.perf_counter()
    with trtlab.InferenceManager(max_executions=2) as manager:
        reader = load(manager, models)
        loaded = time.perf_counter()
        reader.read(image)
        first = time.perf_counter()
        page = reader.read(image)
        second = time.perf_counter()
    print(f"trtlab {trtlab.__version__}: a picture of {image.shape[1]} x {image.shape[0]} pixels\n")
    for line in page.lines:
        print(f"  {line.score:.3f}  {line.text}")
    print("\nwhere the time went:")
    _print_times(page, second - first)
    print(f"  loading the models took {loaded - started:.3f} s, the first reading {first - loaded:.3f} s")
    return page


def _print_times(page: Page, total: float) -> None:
    rows = [(stage, page.seconds[stage]) for stage in STAGES]
    rows.append(("everything else", total - sum(page.seconds.values())))
    rows.append(("total", total))
    rows.append(("of it in the models", page.infer_seconds))
    for stage, seconds in rows:
        print(f"  {stage:<20} {seconds * 1e3:9.2f} ms {seconds / total:6.1%}")


def _bench(model: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "trtlab", "bench", str(model), "--duration", str(seconds)]
    command += ["--shape", "x=1,3,48,320"]
    print(f"\ntrtlab {' '.join(command[3:])}", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ChildProcessError(f"trtlab bench ended with status {status}; its own message stands above")


if __name__ == "__main__":
    # The alphabet has thousands of characters, a terminal's encoding may not.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
