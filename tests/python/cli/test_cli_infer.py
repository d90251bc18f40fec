"""trtlab infer: from files to an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Trtlab = Callable[..., Any]  # as `run` in conftest.py gives it


def test_infer_reads_npy_and_writes_npz(run: Trtlab, double: Path, tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "x.npy", x)
    for given in (f"x={tmp_path / 'x.npy'}", tmp_path / "x.npy"):
        found = run("infer", double, "--input", given, "--output", tmp_path / "y.npz", "--json").json
        assert found["outputs"] == [
            {"name": "y", "dtype": "float32", "shape": [2, 4], "min": 0.0, "max": 14.0, "mean": 7.0}
        ]
        with np.load(tmp_path / "y.npz") as archive:
            assert archive.files == ["y"]
            np.testing.assert_array_equal(archive["y"], 2 * x)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_infer_reads_npz_and_joins_files(run: Trtlab, saved: Callable[..., Path], tmp_path: Path) -> None:
    model = saved(("a", "f32", ("?", 2)), ("b=1", "i32", (3,)))
    np.savez(tmp_path / "both.npz", **{"a": np.ones((1, 2), np.float32), "b=1": np.arange(3, dtype=np.int32)})
    output = tmp_path / "out.npz"
    assert run("infer", model, "--input", tmp_path / "both.npz", "--output", output).status == 0
    with np.load(output) as archive:
        assert archive["2b=1"].tolist() == [0, 2, 4]

    np.save(tmp_path / "b.npy", np.arange(3, dtype=np.int32))
    given = [f"a={tmp_path / 'both.npz'}", f"a={tmp_path / 'both.npz'}", f"b=1={tmp_path / 'b.npy'}"]
    arguments = [word for file in given for word in ("--input", file)]
    assert run("infer", model, *arguments, "--output", output).status == 0
    with np.load(output) as archive:
        assert archive["2a"].tolist() == [[2, 2], [2, 2]]


def test_infer_shows_the_largest_elements(run: Trtlab, double: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 4, 2, 4], [0, -1, np.nan, 3]], np.float32))
    found = run("infer", double, "--input", tmp_path / "x.npy", "--top", 2, "--json").json["outputs"][0]
    assert found["top"][0] == [{"index": 1, "value": 8.0}, {"index": 3, "value": 8.0}]
    assert found["top"][1][0] == {"index": 3, "value": 6.0}
    assert found["min"] == "nan"
    lines = [line.split() for line in run("infer", double, "--input", tmp_path / "x.npy", "--top", 1).out.splitlines()]
    assert ["0", "1", "1", "8"] in lines
    assert ["1", "1", "3", "6"] in lines


def test_infer_repeats(run: Trtlab, double: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    said = run("infer", double, "--input", tmp_path / "x.npy", "--repeat", 5)
    assert "5 times, one after the other" in said.out
    time = run("infer", double, "--input", tmp_path / "x.npy", "--repeat", 5, "--json").json["time"]
    assert 0 < time["min_us"] <= time["median_us"] <= time["max_us"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.npy", b"no array", "no array that numpy reads"),
        ("x.npz", b"no archive", "no archive of arrays"),
        ("x.png", b"no picture", "rank 3 or 4"),
        ("gone.npy", None, "there is no file"),
        ("x.npy", np.zeros((1, 4), np.float64), "float64"),
        ("x.npy", np.zeros((1, 5), np.float32), "5"),
        ("x.npy", np.array([{}], object), "no array that numpy reads"),
    ],
)
def test_infer_refuses_inputs_by_name(
    run: Trtlab, double: Path, tmp_path: Path, name: str, content: bytes | np.ndarray | None, word: str
) -> None:
    file = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(file, content, allow_pickle=True)
    elif content is not None:
        file.write_bytes(content)
    said = run("infer", double, "--input", f"x={file}")
    assert said.status == 2
    assert said.err.startswith("trtlab: ")
    assert len(said.err.splitlines()) == 1
    assert word in said.err


def test_infer_says_which_inputs_there_are(run: Trtlab, saved: Callable[..., Path]) -> None:
    model = saved(("a", "f32", ("?", 2)), ("b", "i32", (3,)))
    assert "missing inputs 'a'" in run("infer", model).err
    for given in ("c=x.npy", "x.npy"):
        said = run("infer", model, "--input", given)
        assert said.status == 2
        assert "a float32[?x2], b int32[3]" in said.err


def test_infer_does_not_touch_the_output_when_it_fails(run: Trtlab, double: Path, tmp_path: Path) -> None:
    output = tmp_path / "y.npz"
    output.write_bytes(b"old")
    assert run("infer", double, "--output", output).status == 2
    assert output.read_bytes() == b"old"
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    said = run("infer", double, "--input", tmp_path / "x.npy", "--output", tmp_path / "nowhere" / "y.npz")
    assert said.status == 2
    assert "nowhere" in said.err


def test_infer_blames_the_size_of_a_picture_when_the_model_refuses_it(
    run: Trtlab, model_file: Callable[[str], Path], picture: Path
) -> None:
    said = run("infer", model_file("det"), "--input", picture)
    assert said.status == 2
    assert said.err.startswith(
        "trtlab: input 'x' float32[?x3x?x?] leaves the picture's size open; taken is its own, 1x3x2x5, "
        "--size HEIGHTxWIDTH says otherwise. With that: model"
    )
    found = run("infer", model_file("det"), "--input", picture, "--size", "32x64", "--json").json
    assert found["outputs"][0]["shape"] == [1, 1, 32, 64]


def test_a_long_name_is_not_broken_over_two_lines(run: Trtlab, saved: Callable[..., Path], tmp_path: Path) -> None:
    name = "a_name_that_is_wider_than_the_table_of_its_elements"
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    said = run("infer", saved((name, "f32", (1, 4))), "--input", tmp_path / "x.npy", "--top", 1)
    assert f"2{name}, top 1" in said.out.splitlines()


def test_infer_reads_a_picture(run: Trtlab, saved: Callable[..., Path], picture: Path, tmp_path: Path) -> None:
    model = saved(("pixels", "f32", ("?", 3, 2, 5)))
    output = tmp_path / "out.npz"
    arguments = ["--input", picture, "--input", picture, "--scale", 1, "--mean", "1,2,3", "--output", output]
    assert run("infer", model, *arguments).status == 0
    pixels = np.asarray(Image.open(picture)).astype(np.float32).transpose(2, 0, 1)
    with np.load(output) as archive:
        np.testing.assert_allclose(archive["2pixels"], [2 * (pixels - np.reshape([1, 2, 3], (3, 1, 1)))] * 2)
