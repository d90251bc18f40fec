"""The command trtlab: in this process through main(), and as a program of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trtlab

Trtlab = Callable[..., Any]  # as `run` in conftest.py gives it
Command = Callable[..., list[str]]


def test_importing_trtlab_imports_neither_click_nor_rich(python: Callable[..., str]) -> None:
    python("import sys, trtlab, trtlab.cli; assert not {'click', 'rich', 'numpy', 'PIL'} & set(sys.modules)")


def test_the_installed_command_is_the_module(command: Command) -> None:
    script = Path(sys.executable).parent / "trtlab"
    for program in ([str(script)], command()):
        done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (f"trtlab {trtlab.__version__}\n", "")


def test_cmake_dir_is_where_the_package_file_is(run: Trtlab) -> None:
    said = run("--cmake-dir")
    assert said.status == 0
    assert (Path(said.out.strip()) / "trtlabConfig.cmake").is_file()


@pytest.mark.parametrize("name", ["doctor", "inspect", "infer", "bench", "build", "tune"])
def test_every_command_has_help(run: Trtlab, name: str) -> None:
    assert name in run("--help").out
    assert f"trtlab {name}" in run(name, "--help").out


def test_in_80_columns_no_summary_is_cut(run: Trtlab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help").out.splitlines()
    summaries = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in summaries] == ["bench", "build", "doctor", "infer", "inspect", "tune"]
    assert [line for line in summaries if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["dance"], "dance"),
        (["inspect"], "MODEL"),
        (["inspect", "nowhere.onnx"], "nowhere.onnx"),
        (["bench", "nowhere.onnx"], "nowhere.onnx"),
        (["bench", "x", "--concurrency", "1,zero"], "1,zero"),
        (["bench", "x", "--concurrency", "0"], "above 0"),
        (["bench", "x", "--rate", "nan"], "above 0"),
        (["bench", "x", "--rate", "1,2", "--concurrency", "1,2"], "--concurrency takes one number"),
        (["bench", "x", "--duration", "0"], "duration"),
        (["infer", "x", "--output", "y.txt"], ".npz"),
        (["infer", "x", "--mean", "grey"], "grey"),
        (["infer", "x", "--size", "48"], "like 48x320, got '48'"),
        (["infer", "x", "--size", "0x5"], "like 48x320, got '0x5'"),
        (["bench", "x", "--input", "x.npy", "--shape", "1x4"], "--shape and --batch are of random inputs"),
        (["bench", "x", "--executions", "9" * 30], "max_executions: expected an int of at least 1"),
        (["inspect", "nowhere.onnx", "--streams", "9" * 30], "streams: expected an int of at least 1"),
        (["inspect", "nowhere.onnx", "--device", "cuda:0"], "cuda:0"),
    ],
)
def test_a_wrong_call_is_one_clear_message_and_status_2(run: Trtlab, arguments: list[str], word: str) -> None:
    said = run(*arguments)
    assert (said.status, said.out) == (2, "")
    assert word in said.err
    assert "Traceback" not in said.err


def test_an_error_is_one_line_and_with_debug_a_traceback(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no model")
    plain = subprocess.run(command("inspect", file), capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stderr.startswith("trtlab: ")
    assert str(file) in plain.stderr
    assert "Traceback" not in plain.stderr
    debug = subprocess.run(command("--debug", "inspect", file), capture_output=True, text=True, check=False)
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["doctor", "--json"], ["inspect", "MODEL"]])
def test_a_reader_that_goes_away_ends_the_program_quietly(arguments: list[str], double: Path, command: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command(*(str(double) if word == "MODEL" else word for word in arguments)),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def read_terminal(file: int, until: str) -> str:
    text = ""
    while until not in text:
        with contextlib.suppress(UnicodeDecodeError):
            text += os.read(file, 4096).decode()
    return text


def test_on_a_terminal_bench_shows_progress_and_ctrl_c_ends_it(double: Path, command: Command) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("bench", double, "--duration", "3600", "--warmup", "0.1"),
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    try:
        read_terminal(master, "1 outstanding, measure")
        process.send_signal(signal.SIGINT)
        read_terminal(master, "interrupted")
        out, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert (process.returncode, out) == (130, "")


def test_names_that_look_like_markup_or_are_not_ascii_are_printed(saved: Callable[..., Path], command: Command) -> None:
    model = saved(("[red]:smile:é", "f32", (1, 4)))
    done = subprocess.run(
        command("inspect", model),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert r"[red]:smile:\xe9" in done.stdout


def test_inspect_shows_names_dtypes_and_shapes(run: Trtlab, saved: Callable[..., Path]) -> None:
    model = saved(("a", "f32", ("?", 3, "2..8")), ("b", "i64", (4,)))
    found = run("inspect", model, "--json").json
    assert found["size_bytes"] == model.stat().st_size
    assert found["inputs"] == [
        {"name": "a", "dtype": "float32", "shape": [None, 3, [2, 8]]},
        {"name": "b", "dtype": "int64", "shape": [4]},
    ]
    assert [output["name"] for output in found["outputs"]] == ["2a", "2b"]
    lines = [line.split() for line in run("inspect", model).out.splitlines()]
    assert ["input", "a", "float32", "?x3x2..8"] in lines
    assert ["output", "2b", "int64", "4"] in lines


def test_inspect_counts_the_weights_of_an_ir(run: Trtlab, double: Path) -> None:
    double.with_suffix(".bin").write_bytes(bytes(1000))
    assert run("inspect", double, "--json").json["size_bytes"] == double.stat().st_size + 1000
