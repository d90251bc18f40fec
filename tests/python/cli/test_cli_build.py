"""trtlab build."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trtlab import plans

Trtlab = Callable[..., Any]
PROFILE = "x=1x...:4x...:8x..."

pytestmark = pytest.mark.usefixtures("plan_cache")


@pytest.fixture
def build(run: Trtlab) -> Trtlab:
    return lambda *arguments: run("build", *arguments, "--library", "tensorrt_rtx")


def test_a_plan_lies_beside_the_model_unless_told_otherwise(
    build: Trtlab, small_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    said = build(small_onnx(), "--profile", PROFILE)
    assert (said.status, said.err) == (0, "")
    assert "built now" in said.out
    assert "built now" not in build(small_onnx(), "--profile", PROFILE, "-o", tmp_path / "other.plan").out
    assert (tmp_path / "small.plan").read_bytes() == (tmp_path / "other.plan").read_bytes()
    lines = [line.split() for line in said.out.splitlines()]
    assert ["input", "x", "float32", "?x3x16x16", "1x3x16x16:4x3x16x16:8x3x16x16"] in lines
    assert "TensorRT-RTX 1.4.0.76 for compute capability 8.0 and above" in said.out


def test_json_is_the_manifest(build: Trtlab, small_onnx: Callable[..., Path], tmp_path: Path) -> None:
    found = build(
        *(small_onnx(), "--profile", PROFILE, "--profile", "x=2x...", "--precision", "float16", "--json"),
        *("--workspace", "256M", "--compute-capability", "8.6,8.9", "--builder-flag", "STRICT_NANS"),
    ).json
    assert found["plan"] == str(tmp_path / "small.plan")
    assert found["cached"] is False
    assert found["manifest"] == json.loads((tmp_path / "small.plan.json").read_text())
    options = found["manifest"]["options"]
    assert options["workspace_bytes"] == 256 << 20
    assert options["compute_capability"] == ["8.6", "8.9"]
    assert options["builder_flags"] == ["STRICT_NANS"]
    assert len(found["manifest"]["profiles"]) == 2


def test_openssl_makes_the_key_that_signs(build: Trtlab, small_onnx: Callable[..., Path], tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    said = build(small_onnx(), "--profile", PROFILE, "--sign-with", private)
    assert "signed" in said.out
    assert plans.verify(tmp_path / "small.plan", public_keys=[public], require_signature=True)[1] is not None


def test_the_cache_is_shown_and_emptied(run: Trtlab, build: Trtlab, small_onnx: Callable[..., Path]) -> None:
    assert "0 plans" in run("build", "--cache-info").out
    built = build(small_onnx(), "--profile", PROFILE, "--json").json
    shown = run("build", "--cache-info")
    assert "1 plans" in shown.out
    assert built["manifest"]["key"][:12] in shown.out
    assert [plan["key"] for plan in run("build", "--cache-info", "--json").json["plans"]] == [built["manifest"]["key"]]
    cleared = run("build", "--cache-clear", "--json").json
    assert cleared["cleared"] is True
    assert len(cleared["plans"]) == 1
    assert run("build", "--cache-info", "--json").json["plans"] == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "MODEL"),
        (["--cache-info", "--cache-clear"], "stand alone"),
        (["nowhere.onnx", "--cache-info"], "stand alone"),
        (["nowhere.onnx"], "nowhere.onnx: no such file"),
        (["SMALL"], "trtlab build"),
        (["SMALL", "--profile", "x=1x4"], "expected 4 axes"),
        (["SMALL", "--precision", "float8"], "float8"),
        (["SMALL", "--workspace", "much"], "expected bytes"),
        (["SMALL", "--workspace", "²"], "expected bytes"),
        (["SMALL", "--profile", PROFILE, "--compute-capability", "5.0"], "not for 5.0"),
        (["SMALL", "--profile", PROFILE, "--sign-with", "nowhere.pem"], "nowhere.pem: no such file"),
        (["SMALL", "--profile", PROFILE, "--weakly-typed"], "strongly_typed=False"),
        (["SMALL", "--profile", PROFILE, "-o", "nowhere/m.plan"], "the folder nowhere does not exist"),
    ],
)
def test_a_wrong_call_is_one_clear_message_and_status_2(
    build: Trtlab, small_onnx: Callable[..., Path], arguments: list[str], word: str
) -> None:
    said = build(*(str(small_onnx()) if word == "SMALL" else word for word in arguments))
    assert (said.status, said.out) == (2, "")
    assert word in said.err
    assert "Traceback" not in said.err


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    command: Callable[..., list[str]], small_onnx: Callable[..., Path]
) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("build", small_onnx(), "--profile", PROFILE, "--library", "tensorrt_rtx"),
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    try:
        while b"100%" not in shown:
            shown += os.read(master, 4096)
        out, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 0
    assert "built now" in out
    assert b"small.onnx" in shown


def test_a_bar_can_be_had_without_a_terminal(build: Trtlab, small_onnx: Callable[..., Path]) -> None:
    said = build(small_onnx(), "--profile", PROFILE, "--progress")
    assert said.status == 0
    assert "100%" in said.err
