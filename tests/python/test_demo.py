"""The demo in examples/ocr: same text as RapidOCR, through models of trtlab."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import skimage.data
import trtlab
from PIL import Image
from rapidocr_onnxruntime import RapidOCR

EXAMPLE = Path(__file__).parents[2] / "examples" / "ocr"
sys.path.insert(0, str(EXAMPLE))

import demo  # noqa: E402
from detection import find_boxes  # noqa: E402
from ocr import STAGES, Ocr, Page, read_image  # noqa: E402
from onnx_metadata import read_metadata  # noqa: E402
from recognition import alphabet_from, decode  # noqa: E402

PAGE = demo.page_of_scikit_image()


@pytest.fixture(scope="module")
def models() -> Iterator[list[Any]]:
    """The detector, the classifier and the recogniser."""
    with trtlab.InferenceManager(max_executions=2) as manager:
        yield [manager.load(name, file) for name, file in demo.find_models().items()]


@pytest.fixture(scope="module")
def alphabet() -> list[str]:
    return alphabet_from(read_metadata(demo.find_models()["ocr-rec"])["character"])


@pytest.fixture(scope="module")
def reader(models: list[Any], alphabet: list[str]) -> Ocr:
    return Ocr(*models, alphabet)


@pytest.fixture(scope="module")
def rapidocr() -> RapidOCR:
    return RapidOCR()


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


def assert_same_as_rapidocr(page: Page, rapidocr: RapidOCR, image: np.ndarray) -> None:
    expected = rapidocr(image)[0] or []
    assert texts(page) == [text for _, text, _ in expected]
    for line, (box, _, score) in zip(page.lines, expected, strict=True):
        np.testing.assert_allclose(line.box, box, atol=1)
        assert line.score == pytest.approx(score, abs=0.01)


def test_the_page_reads_as_rapidocr_reads_it(reader: Ocr, rapidocr: RapidOCR) -> None:
    page = reader.read(PAGE)
    assert_same_as_rapidocr(page, rapidocr, PAGE)
    assert len(page.lines) == 5
    assert "background.These markers are pixels that we can label" in texts(page)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(cv2.cvtColor(skimage.data.text(), cv2.COLOR_GRAY2BGR), id="a photograph of handwriting"),
        pytest.param(np.ascontiguousarray(PAGE[::-1, ::-1]), id="upside down"),
        pytest.param(np.ascontiguousarray(np.rot90(PAGE)), id="turned by a quarter"),
        pytest.param(cv2.resize(PAGE, (2304, 1146)), id="larger than is read"),
        pytest.param(np.tile(PAGE, (6, 1, 1)), id="more lines than are in flight"),
        pytest.param(np.ascontiguousarray(PAGE[44:68]), id="one low line"),
    ],
)
def test_other_pictures_read_as_rapidocr_reads_them(reader: Ocr, rapidocr: RapidOCR, image: np.ndarray) -> None:
    page = reader.read(image)
    assert page.lines
    assert_same_as_rapidocr(page, rapidocr, image)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_empty_page_has_no_text(reader: Ocr, value: int) -> None:
    page = reader.read(np.full((300, 400, 3), value, np.uint8))
    assert page.lines == []
    assert tuple(page.seconds) == STAGES


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 4000), (4000, 1), (29, 2001), (6000, 40)])
def test_sizes_that_no_page_has_are_read_without_harm(reader: Ocr, size: tuple[int, int]) -> None:
    assert reader.read(np.full((*size, 3), 200, np.uint8)).lines == []


def test_boxes_of_a_picture_with_margins_lie_on_the_picture(reader: Ocr) -> None:
    column = np.full((2400, 200, 3), 255, np.uint8)
    column[1000:1191, 4:196] = PAGE[:, :192]
    lines = reader.read(column).lines
    assert lines
    for line in lines:
        assert (line.box[:, 0] >= 0).all()
        assert (line.box[:, 0] <= 200).all()
        assert (line.box[:, 1] > 990).all()
        assert (line.box[:, 1] < 1200).all()


@pytest.mark.parametrize(
    "image",
    [
        PAGE[:, :, 0],
        PAGE[:, :, :2],
        PAGE.astype(np.float32),
        PAGE[:0],
    ],
    ids=["two dimensions", "two channels", "float32", "no pixels"],
)
def test_what_is_no_picture_is_refused(reader: Ocr, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a picture .* got shape .* and dtype"):
        reader.read(image)


def test_two_threads_may_read_at_once(reader: Ocr) -> None:
    expected = texts(reader.read(PAGE))
    with ThreadPoolExecutor(2) as threads:
        assert [texts(page) for page in threads.map(reader.read, [PAGE] * 4)] == [expected] * 4


class Watched:
    """A model that counts how many of its answers have not been asked for."""

    def __init__(self, model: Any) -> None:
        self.model, self.inputs, self.outputs = model, model.inputs, model.outputs
        self.sent = self.waiting = self.most_waiting = 0

    def infer(self, inputs: Mapping[str, np.ndarray], /) -> "WatchedFuture":
        self.sent += 1
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        return WatchedFuture(self, self.model.infer(inputs))


class WatchedFuture:
    """A future that tells its `Watched` when it is asked for."""

    def __init__(self, owner: Watched, future: Any) -> None:
        self.owner, self.future = owner, future

    def result(self, timeout: float | None = None) -> Mapping[str, Any]:
        self.owner.waiting -= 1
        return self.future.result(timeout=timeout)


@pytest.mark.parametrize("max_in_flight", [1, 3, 100])
def test_batches_are_sent_ahead_but_not_without_bound(
    models: list[Any], alphabet: list[str], reader: Ocr, max_in_flight: int
) -> None:
    image = np.tile(PAGE, (6, 1, 1))
    detector, classifier, recogniser = watched = [Watched(model) for model in models]
    page = Ocr(*watched, alphabet, max_in_flight=max_in_flight).read(image)
    assert texts(page) == texts(reader.read(image))
    assert detector.sent == 1
    assert classifier.sent == recogniser.sent > 4
    assert classifier.most_waiting == recogniser.most_waiting == min(max_in_flight, recogniser.sent)


def test_a_model_that_fails_fails_the_reading(models: list[Any], alphabet: list[str]) -> None:
    def refuse(x: np.ndarray) -> dict[str, np.ndarray]:
        raise OSError("the recogniser is out of order")

    broken = trtlab.FunctionModel(
        refuse,
        inputs=[trtlab.TensorSpec("x", "float32", (None, 3, 48, None))],
        outputs=[trtlab.TensorSpec("y", "float32", (None, None, 6625))],
    )
    with trtlab.InferenceManager(max_executions=1) as manager:
        recogniser = manager.register("broken", broken)
        with pytest.raises(Exception, match="the recogniser is out of order"):
            Ocr(*models[:2], recogniser, alphabet).read(PAGE)


def save(folder: Path, mode: str) -> Path:
    """Writes the page as a picture of another mode that shows the same."""
    grey = Image.fromarray(PAGE[:, :, 0])
    file = folder / ("page.tiff" if mode == "CMYK" else "page.png")
    if mode in ("LA", "RGBA"):
        # Black ink on transparent paper.
        picture = Image.new(mode, grey.size)
        picture.putalpha(Image.fromarray(255 - PAGE[:, :, 0]))
    elif mode == "I;16":
        picture = Image.fromarray(PAGE[:, :, 0].astype(np.uint16) * 257)
    else:
        picture = grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)
    assert picture.mode == mode
    picture.save(file)
    return file


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_shows_the_same_page(tmp_path: Path, mode: str) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path, mode)), PAGE)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = Image.fromarray(np.rot90(PAGE))
    exif = picture.getexif()
    turn_clockwise, orientation = 6, 0x0112
    exif[orientation] = turn_clockwise
    picture.save(tmp_path / "photograph.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photograph.png"), PAGE)


def test_colours_arrive_as_blue_green_red(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "colour.png")
    image = read_image(tmp_path / "colour.png")
    assert image.shape == (30, 40, 3)
    assert (image == (3, 2, 1)).all()


def test_the_demo_prints_the_text_and_draws_the_boxes(
    tmp_path: Path, reader: Ocr, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "boxes.png"
    assert demo.main(["--output", str(file), "--bench", "0"]) == 0
    printed = capsys.readouterr().out
    lines = reader.read(PAGE).lines
    assert [text for text in texts(Page(lines, {})) if text not in printed] == []
    assert [stage for stage in (*STAGES, "total", "of it in the models") if stage not in printed] == []
    assert printed.endswith(f"ok: {len(lines)} lines of text, boxes drawn into {file}\n")

    with Image.open(file) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (384, 191))
        pixels = np.asarray(picture)
    drawn = (pixels == demo.BOX_COLOUR).all(axis=2)
    outlines = np.zeros_like(drawn)
    for line in lines:
        corners = line.box.astype(int)
        assert drawn[corners[:, 1], corners[:, 0]].all()
        left, top = corners.min(axis=0)
        right, bottom = corners.max(axis=0)
        outlines[top : bottom + 1, left : right + 1] = True
    assert not (drawn & ~outlines).any()
    np.testing.assert_array_equal(pixels[~drawn], PAGE[~drawn])


def test_the_demo_runs_as_a_program_with_its_bench(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "demo.py"), "--output", str(tmp_path / "boxes.png")]
    run = subprocess.run(
        [*command, "--bench", "0.3"], capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert "trtlab bench" in run.stdout
    assert run.stdout.rstrip().splitlines()[-1].startswith("ok: 5 lines of text")


def test_the_demo_fails_without_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (200, 100), 255).save(tmp_path / "blank.png")
    arguments = ["--image", str(tmp_path / "blank.png"), "--output", str(tmp_path / "o.png"), "--bench", "0"]
    assert demo.main(arguments) == 1
    assert "no text found" in capsys.readouterr().err


def test_the_demo_fails_when_the_bench_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert demo.main(["--output", str(tmp_path / "o.png"), "--bench", "1"]) == 2
    assert "trtlab bench ended with status 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "no picture", "truncated", "floating point"])
def test_the_demo_says_what_is_wrong_with_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = tmp_path / "picture.tiff"
    if kind == "no picture":
        file.write_text("no picture")
    elif kind == "truncated":
        file = save(tmp_path, "L")
        file.write_bytes(file.read_bytes()[:2000])
    elif kind == "floating point":
        Image.fromarray(np.zeros((30, 30), np.float32)).save(file)
    assert demo.main(["--image", str(file), "--output", str(tmp_path / "o.png")]) == 2
    assert capsys.readouterr().err.startswith("failed: ")
    assert not (tmp_path / "o.png").exists()


def test_metadata_is_what_onnxruntime_reads() -> None:
    for file in demo.find_models().values():
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert read_metadata(file) == session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("content", [b"\x00\x01", b"\x0f\x00", b"\x72\x7f\x0a", b"\xff" * 12, b"PK\x03\x04"])
def test_metadata_of_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.onnx: not an ONNX file"):
        read_metadata(tmp_path / "broken.onnx")


def test_decoding_joins_runs_and_drops_blanks() -> None:
    classes = [0, 1, 1, 0, 1, 2, 2, 3, 0]
    probability = np.full((len(classes), 4), 0.1, np.float32)
    probability[np.arange(len(classes)), classes] = [0.9, 0.8, 0.7, 0.9, 0.6, 0.5, 0.9, 0.5, 0.9]
    assert decode(probability, alphabet_from("a\nb")) == ("aab ", pytest.approx((0.8 + 0.6 + 0.5 + 0.5) / 4))
    assert decode(probability[:1], alphabet_from("a\nb")) == ("", 0.0)


def test_decoding_with_the_alphabet_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="has 5 classes but its alphabet 4"):
        decode(np.zeros((2, 5), np.float32), alphabet_from("a\nb"))


def test_boxes_of_two_columns_are_in_reading_order() -> None:
    probability = np.zeros((320, 640), np.float32)
    for top, left in [(200, 350), (105, 20), (100, 350), (200, 20)]:
        probability[top : top + 12, left : left + 250] = 0.9
    boxes = find_boxes(probability, 640, 320)
    corners = [tuple(box[0] > (300, 150)) for box in boxes]
    assert corners == [(False, False), (True, False), (False, True), (True, True)]


def test_faint_and_small_spots_are_no_text() -> None:
    probability = np.zeros((320, 640), np.float32)
    probability[50:62, 20:200] = 0.4
    probability[100:101, 20:22] = 1
    assert find_boxes(probability, 640, 320) == []
