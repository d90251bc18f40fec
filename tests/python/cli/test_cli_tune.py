"""trtlab tune on the CPU: what it takes, and what it prints."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Trtlab = Callable[..., Any]  # as `run` in conftest.py gives it
Command = Callable[..., list[str]]

SHORT = ["--duration", "0.02", "--warmup", "0"]


def test_tune_prints_a_table_the_limit_and_the_command_that_repeats_the_best(run: Trtlab, double: Path) -> None:
    said = run("tune", double, "--batch", "1,2", "--executions", "1,2", *SHORT)
    assert (said.status, said.err) == (0, "")
    for word in ("batch", "executions", "streams", "inferences/s", "p99", "limit: "):
        assert word in said.out
    assert said.out.count("<- best") == 1
    command = said.out.splitlines()[-1].removeprefix("again: trtlab ").split()
    assert run(*command, *SHORT).status == 0


def test_json_has_every_measurement_and_the_verdict(run: Trtlab, double: Path) -> None:
    found = run("tune", double, "--batch", "2", "--executions", "1", "--streams", 1, *SHORT, "--json").json
    settings = [one["setting"] for one in found["measurements"]]
    assert {setting["batch"] for setting in settings} == {2}
    assert {setting["streams"] for setting in settings} == {1}
    assert found["verdict"]["best"] in settings
    assert found["verdict"]["meaning"]
    assert found["environment"]["cpu"]["usable"] > 0


def test_a_bound_that_nothing_keeps_is_status_1(run: Trtlab, double: Path) -> None:
    said = run("tune", double, "--batch", "1", "--p99", "0.001us", *SHORT)
    assert said.status == 1
    assert "limit: the bound on the latency" in said.out
    assert "beyond the bound" in said.out
    assert "again:" not in said.out


def test_a_budget_that_is_spent_is_told(run: Trtlab, double: Path) -> None:
    said = run("tune", double, "--budget", "0.001", *SHORT)
    assert said.status == 0
    assert "1 settings in" in said.out
    assert "--budget" in said.err


def test_shapes_are_those_of_an_input_with_the_batch_in_front(run: Trtlab, saved: Callable[..., Path]) -> None:
    model = saved(("x", "f32", ("?", "?", 4)))
    said = run("tune", model, "--batch", "3", "--executions", 1, "--shape", "x=1x7x4", *SHORT)
    assert (said.status, said.err) == (0, "")
    assert "--shape x=3x7x4" in said.out
    said = run("tune", model, "--batch", "3", "--executions", 1, *SHORT)
    assert "input 'x' leaves axis 1 (?) open; taken is 3x1x4" in said.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--p99", "15"], "15ms"),
        (["--p99", "0ms"], "0ms"),
        (["--batch", "0"], "above 0"),
        (["--graphs", "maybe"], "maybe"),
        (["--buffers", "1", "--executions", "2"], "at least 2, got 1"),
        (["--shape", "x=1x5"], "'x'"),
        (["--device", "cuda:0,cuda:1"], "one is measured at a time"),
        (["--executions", "9" * 30], "executions"),
    ],
)
def test_tune_refuses_what_makes_no_sense(run: Trtlab, double: Path, arguments: list[str], word: str) -> None:
    said = run("tune", double, *SHORT, *arguments)
    assert (said.status, said.out) == (2, "")
    assert word in said.err
    assert "Traceback" not in said.err


def test_on_a_terminal_tune_says_what_it_measures_and_ctrl_c_ends_it(double: Path, command: Command) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("tune", double, "--batch", "1", "--duration", "3600"),
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    try:
        text = ""
        while "1 executions, 1 buffers" not in text:
            text += os.read(master, 4096).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        while "interrupted" not in text:
            text += os.read(master, 4096).decode(errors="replace")
        out, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert (process.returncode, out) == (130, "")
