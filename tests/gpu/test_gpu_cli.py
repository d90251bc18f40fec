"""The commands on a GPU that is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHORT = ["--duration", "0.2", "--warmup", "0.1"]
MODEL = "resnet50_dynamic"


def trtlab(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trtlab", *map(str, arguments)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def read(*arguments: object) -> Any:
    return json.loads(trtlab(*arguments, "--json"))


@pytest.fixture
def plan(models: Any) -> Path:
    if MODEL not in models:
        pytest.fail(f"{MODEL} was not made")
    return Path(models.plan(MODEL))


def test_doctor_finds_the_gpu_and_a_library_for_it() -> None:
    found = read("doctor")
    assert found["ok"] is True
    assert found["engines"]["tensorrt"]["usable"] is True
    device = found["cuda"]["devices"][0]
    assert device["error"] is None
    assert device["memory"]["total_bytes"] > 2**30
    assert device["uuid"].startswith("GPU-")


def test_inspect_tells_layers_and_their_times(plan: Path) -> None:
    found = read("inspect", plan, "--layer-times")
    assert found["layers"] > 0
    assert found["weights_bytes"] > 0
    assert len(found["layer_times"]) > 0
    assert sum(one["time_us"] for one in found["layer_times"]) > 0


def test_bench_times_a_request_and_replays_graphs(plan: Path) -> None:
    found = read("bench", plan, "--batch", 8, "--concurrency", 4, *SHORT)
    (run,) = found["runs"]
    assert run["failures"] == 0
    # 4.8 MB at any speed of PCIe, and some kernels.
    assert run["device_us"]["h2d"] > 10
    assert run["device_us"]["compute"] > 10
    assert run["graphs"]["graph_hits"] > 0
    assert run["graphs"]["graphs_refused"] == 0


@pytest.mark.parametrize("place", ["pinned", "device"])
def test_bench_takes_inputs_from_pinned_and_from_gpu_memory(plan: Path, place: str) -> None:
    found = read("bench", plan, "--batch", 8, "--concurrency", 2, "--inputs", place, "--no-timing", *SHORT)
    assert found["runs"][0]["failures"] == 0


def test_tune_says_which_limit_was_met(plan: Path) -> None:
    found = read("tune", plan, "--batch", 8, "--executions", "1,2", "--graphs", "on", *SHORT)
    assert found["complete"] is True
    assert all(one["error"] is None for one in found["measurements"])
    assert found["verdict"]["best"] is not None
    assert found["verdict"]["figures"]["compute_busy"] > 0


def test_infer_answers_as_the_model_does(models: Any, tmp_path: Path) -> None:
    inputs, outputs = models.cases("double_float32")[0]
    np.savez(tmp_path / "in.npz", **inputs)
    trtlab("infer", models.plan("double_float32"), "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        for name, expected in outputs.items():
            np.testing.assert_array_equal(archive[name], expected)
