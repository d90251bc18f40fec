"""The commands on a GPU: over the fake CUDA runtime and the fake TensorRT, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trtlab import plans
from trtlab.cli import doctor_gpu

OnGpu = Callable[..., Any]  # as `on_gpu` in conftest.py gives it
Trtlab = Callable[..., Any]

SHORT = ["--duration", "0.05", "--warmup", "0.01"]


def manifest(plan: Path, **changes: Any) -> plans.Manifest:
    """Write a manifest beside the plan."""
    data = plan.read_bytes()
    written = plans.Manifest(
        **{
            "key": "0" * 64,
            "plan_sha256": hashlib.sha256(data).hexdigest(),
            "plan_size_bytes": len(data),
            "onnx_file": "twice.onnx",
            "onnx_sha256": "1" * 64,
            "onnx_external": (),
            "library_flavour": "tensorrt",
            "library_version": "10.16.1",
            "compute_capability": ("9.0",),
            "options": plans.Options(),
            "profiles": ({"x": ((1, 4), (2, 4), (4, 4))},),
            "inputs": (plans.PlanTensor("x", "float32", (None, 4)),),
            "outputs": (plans.PlanTensor("y", "float32", (None, 4)),),
            "created": "2026-01-01T00:00:00Z",
            "trtlab_version": "0.1.0",
            **changes,
        }
    )
    plans.manifest_path(plan).write_bytes(written.to_json())
    return written


# --- infer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1", "cuda:0,cuda:1"])
@pytest.mark.parametrize("weights", ["device", "managed"])
def test_infer_answers_from_a_gpu(on_gpu: OnGpu, twice: Path, tmp_path: Path, device: str, weights: str) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "x.npy", x)
    arguments = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz", "--device", device]
    said = on_gpu("infer", twice, *arguments, "--weights", weights, FAKE_CUDA_DEVICES="2")
    assert said.status == 0, said.err
    with np.load(tmp_path / "y.npz") as archive:
        np.testing.assert_array_equal(archive["y"], 2 * x)


def test_a_shape_that_no_profile_takes_is_refused_in_one_line(on_gpu: OnGpu, twice: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 4), np.float32))
    said = on_gpu("infer", twice, "--input", tmp_path / "x.npy")
    assert said.status == 2
    assert said.err.startswith(
        "trtlab: model 'twice': no optimization profile takes these shapes: input 'x': axis 0 is 9"
    )
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("device", "word"),
    [("cuda:7", "cuda:7"), ("cuda:0,cpu", "expected"), ("cuda:GPU-0", "GPU-0"), ("gpu", "'gpu'")],
)
def test_a_device_that_is_none_is_refused(on_gpu: OnGpu, twice: Path, device: str, word: str) -> None:
    said = on_gpu("bench", twice, "--device", device, *SHORT)
    assert (said.status, said.out) == (2, "")
    assert word in said.err
    assert "Traceback" not in said.err


# --- bench --------------------------------------------------------------------------------------------------------


def test_bench_tells_the_times_of_the_gpu_and_of_graphs(on_gpu: OnGpu, twice: Path) -> None:
    found = on_gpu("bench", twice, "--batch", 2, "--concurrency", "1,4", *SHORT, "--json").json
    assert found["model"]["platform"] == "tensorrt"
    assert found["model"]["devices"] == ["cuda:0"]
    assert found["limits"]["max_buffers"] == 2 * found["limits"]["max_executions"]
    assert found["placement"] == {"inputs": "host", "outputs": "host"}
    assert found["environment"]["cuda"]["devices"][0]["product"] == "Fake GPU 0"
    for run in found["runs"]:
        assert run["failures"] == 0
        assert run["requests"] > 0
        assert set(run["device_us"]) == {"enqueue", "h2d", "compute", "d2h"}
        assert all(time_us > 0 for time_us in run["device_us"].values())
        assert run["graphs"]["graph_hits"] >= run["requests"]
        # An execution and a buffer that meet for the first time have no graph yet.
        assert run["graphs"]["graph_misses"] <= found["limits"]["max_executions"] * found["limits"]["max_buffers"]
        assert run["graphs"]["graphs_refused"] == 0


def test_bench_without_timing_and_graphs(on_gpu: OnGpu, twice: Path) -> None:
    arguments = ["--batch", 2, "--concurrency", 2, "--no-timing", "--no-graphs", "--executions", 1, "--buffers", 3]
    found = on_gpu("bench", twice, *arguments, *SHORT, "--json").json
    (run,) = found["runs"]
    assert run["device_us"] is None
    assert run["graphs"]["graph_hits"] == 0
    assert run["graphs"]["graph_misses"] >= run["requests"] > 0
    assert (found["limits"]["max_executions"], found["limits"]["max_buffers"]) == (1, 3)


def test_bench_prints_what_trtexec_does(on_gpu: OnGpu, twice: Path) -> None:
    said = on_gpu("bench", twice, "--batch", 2, "--concurrency", 1, "--executions", 1, *SHORT)
    assert (said.status, said.err) == (0, "")
    for word in ("on tensorrt (cuda:0)", "1 executions, 2 buffers", "enqueue", "H2D", "compute", "D2H", "100%"):
        assert word in said.out


def test_bench_takes_inputs_from_where_they_are_to_lie(on_gpu: OnGpu, twice: Path) -> None:
    arguments = ["--batch", 2, "--concurrency", 1, "--outputs", "device", *SHORT, "--json"]
    for place in ("host", "pinned", "device"):
        found = on_gpu("bench", twice, "--inputs", place, *arguments).json
        assert found["placement"] == {"inputs": place, "outputs": "device"}
        (run,) = found["runs"]
        assert (run["failures"], run["batch"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--inputs", "device", "--device", "cuda:0,cuda:1"], "lies on one GPU"),
        (["--batch", "9"], "9"),
        (["--max-graphs", "0"], "--max-graphs"),
    ],
)
def test_bench_refuses_what_a_gpu_does_not_do(on_gpu: OnGpu, twice: Path, arguments: list[str], word: str) -> None:
    said = on_gpu("bench", twice, *arguments, *SHORT, FAKE_CUDA_DEVICES="2")
    assert said.status == 2
    assert word in said.err


def test_inputs_on_a_gpu_are_no_inputs_for_the_cpu(run: Trtlab, double: Path) -> None:
    said = run("bench", double, "--inputs", "pinned", *SHORT)
    assert said.status == 2
    assert said.err == "trtlab: --inputs pinned is for models on a GPU, this one is on openvino\n"


# --- tune ---------------------------------------------------------------------------------------------------------


def test_tune_sweeps_graphs_and_times_the_best(on_gpu: OnGpu, twice: Path) -> None:
    found = on_gpu("tune", twice, "--batch", "1,2", "--executions", "1,2", *SHORT, "--json").json
    assert found["complete"] is True
    settings = [run["setting"] for run in found["measurements"]]
    assert settings[0] == {"batch": 1, "executions": 1, "buffers": 1, "graphs": True, "streams": None}
    assert False in [setting["graphs"] for setting in settings]
    assert all(run["error"] is None and run["memory_bytes"]["cuda:0"] > 0 for run in found["measurements"])
    best = found["verdict"]["best"]
    timed = [run["setting"] for run in found["measurements"] if run["device"] is not None]
    assert best in timed
    assert {**settings[0], "batch": best["batch"]} in timed
    assert found["verdict"]["limit"] in ("copy", "launch", "compute", "untried", "waiting")
    assert {"compute_busy", "copy_in_busy", "launch_busy"} <= set(found["verdict"]["figures"])


def test_tune_leaves_out_batches_that_no_profile_takes(on_gpu: OnGpu, twice: Path) -> None:
    found = on_gpu("tune", twice, "--batch", "2,16", "--executions", 1, "--graphs", "off", *SHORT, "--json").json
    assert {run["setting"]["batch"] for run in found["measurements"]} == {2}
    assert {run["setting"]["graphs"] for run in found["measurements"]} == {False}
    said = on_gpu("tune", twice, "--batch", "16", *SHORT)
    assert said.status == 2
    assert "takes 1 to 8, got [16]" in said.err


def test_tune_prints_the_command_that_measures_the_best_again(on_gpu: OnGpu, twice: Path) -> None:
    arguments = ["--batch", "2", "--executions", 1, "--buffers", 2, "--graphs", "off", "--inputs", "pinned"]
    said = on_gpu("tune", twice, *arguments, "--device", "cuda:0", *SHORT)
    assert said.status == 0, said.err
    assert "<- best" in said.out
    command = said.out.splitlines()[-1].removeprefix("again: trtlab ").split()
    assert {"--no-graphs", "--inputs", "--device"} <= set(command)
    assert on_gpu(*command, *SHORT).status == 0


# --- inspect ------------------------------------------------------------------------------------------------------


def test_inspect_shows_profiles_formats_and_memory_of_a_plan(on_gpu: OnGpu, twice: Path) -> None:
    found = on_gpu("inspect", twice, "--json").json
    assert found["platform"] == "tensorrt"
    assert (found["device"], found["device_name"]) == ("cuda:0", "Fake GPU 0")
    assert found["manifest"] is None
    (x,) = found["inputs"]
    assert (x["name"], x["dtype"], x["shape"]) == ("x", "float32", [None, 4])
    assert x["profiles"][1] == {"min": [3, 4], "opt": [6, 4], "max": [8, 4]}
    assert found["weights_bytes"] == 1536
    assert len(found["activation_bytes"]) == found["profiles"] == 2
    assert (found["layers"], found["aux_streams"]) == (2, 1)
    said = on_gpu("inspect", twice)
    assert "1x4:2x4:4x4" in said.out
    assert "no manifest: nobody vouches for the plan" in said.out
    assert "1.5 KiB of weights" in said.out


def test_inspect_shows_layers_and_how_long_they_take(on_gpu: OnGpu, twice: Path) -> None:
    found = on_gpu("inspect", twice, "--layers", "--layer-times", "--json").json
    assert found["description"] == {"Layers": ["double", "cast"]}
    assert [one["layer"] for one in found["layer_times"]] == ["double", "cast"]
    assert all(one["time_us"] > 0 for one in found["layer_times"])
    said = on_gpu("inspect", twice, "--layer-times")
    assert "2 layers in" in said.out
    assert "50.0%" in said.out


def test_layer_times_of_a_model_whose_shapes_are_values_are_refused(on_gpu: OnGpu, tmp_path: Path) -> None:
    plan = tmp_path / "fill.plan"
    plan.write_text(
        "trtlab fake plan 1\nname fill\ninput x float32 1\ninput s int32 2 shape\n"
        "output y float32 -1x-1 = fill x s\nvalues s 1x1 2x3 4x4\nend\n"
    )
    said = on_gpu("inspect", plan, "--layer-times")
    assert said.status == 2
    assert "input 's'" in said.err


def test_inspect_checks_the_manifest_against_what_is_here(on_gpu: OnGpu, twice: Path) -> None:
    manifest(twice)
    said = on_gpu("inspect", twice)
    assert said.status == 0, said.err
    assert "built from twice.onnx with TensorRT 10.16.1 for compute capability 9.0, float32" in said.out
    manifest(twice, compute_capability=("8.6",))
    said = on_gpu("inspect", twice)
    assert said.status == 2
    assert "rebuild with: trtlab build twice.onnx" in said.err
    twice.write_text(twice.read_text() + "\n")
    assert "changed since it was built" in on_gpu("inspect", twice).err


def test_inspect_without_a_gpu_shows_the_manifest(on_gpu: OnGpu, twice: Path) -> None:
    manifest(twice)
    said = on_gpu("inspect", twice, FAKE_CUDA_DEVICES="0")
    assert said.status == 0, said.err
    assert "no GPU here" in said.out
    assert "TensorRT 10.16.1 (lean): fits" in said.out
    assert "1x4:2x4:4x4" in said.out
    found = on_gpu("inspect", twice, "--json", FAKE_CUDA_DEVICES="0").json
    assert found["library"]["fits"] is True
    assert found["manifest"]["onnx"]["file"] == "twice.onnx"
    assert found["device"] is None
    for arguments in (["--device", "cuda:0"], ["--layers"]):
        refused = on_gpu("inspect", twice, *arguments, FAKE_CUDA_DEVICES="0")
        assert refused.status == 2
        assert "cuda:0 does not exist" in refused.err


def test_inspect_without_a_gpu_says_that_the_library_is_another(on_gpu: OnGpu, twice: Path) -> None:
    manifest(twice, library_version="10.3.0")
    said = on_gpu("inspect", twice, FAKE_CUDA_DEVICES="0")
    assert said.status == 0
    assert "does not fit" in said.out
    assert "running TensorRT 10.16.1; rebuild with" in said.out


def test_layers_of_what_is_no_plan_are_refused(run: Trtlab, double: Path) -> None:
    said = run("inspect", double, "--layers")
    assert said.status == 2
    assert "trtlab build makes one" in said.err


# --- doctor -------------------------------------------------------------------------------------------------------


def test_doctor_finds_gpus_and_libraries(on_gpu: OnGpu) -> None:
    found = on_gpu("doctor", "--json", FAKE_CUDA_DEVICES="2").json
    assert found["ok"] is True
    assert found["cuda"]["usable"] is True
    assert [device["name"] for device in found["cuda"]["devices"]] == ["cuda:0", "cuda:1"]
    device = found["cuda"]["devices"][1]
    assert device["uuid"].startswith("GPU-")
    assert device["compute_capability"] == "9.0"
    assert device["memory"]["total_bytes"] >= device["memory"]["free_bytes"] > 0
    assert found["engines"]["tensorrt"]["usable"] is True
    (library,) = found["libraries"]
    assert (library["flavour"], library["version"], library["usable"]) == ("lean", "10.16.1", True)
    assert set(found["builders"]) == {"tensorrt", "tensorrt_rtx"}
    said = on_gpu("doctor", FAKE_CUDA_DEVICES="2")
    assert "Fake GPU 1, compute capability 9.0" in said.out
    assert said.out.endswith("ok: models can be run on the CPU and cuda:0, cuda:1\n")


def test_doctor_without_a_gpu_is_content_with_the_cpu(on_gpu: OnGpu) -> None:
    said = on_gpu("doctor", FAKE_CUDA_DEVICES="0")
    assert said.status == 0
    assert said.out.endswith("ok: models can be run on the CPU\n")
    found = on_gpu("doctor", "--json", FAKE_CUDA_DEVICES="0").json
    assert found["engines"]["tensorrt"] == {
        **{"usable": False, "name": None, "version": None, "path": None},
        "error": "there is no GPU",
    }
    assert [problem for problem in found["problems"] if "GPU" in problem["what"]] == []


def test_doctor_says_why_a_library_cannot_be_used(on_gpu: OnGpu, tmp_path: Path) -> None:
    (tmp_path / "libnvinfer.so.10").write_text("no library")
    broken = str(tmp_path / "libnvinfer.so.10")
    found = on_gpu("doctor", "--json", TRTLAB_TENSORRT_LIBRARY=broken).json
    (library,) = found["libraries"]
    assert (library["path"], library["usable"], library["version"]) == (broken, False, None)
    assert library["error"]
    (problem,) = [one for one in found["problems"] if "engine for the GPUs" in one["what"]]
    assert problem["fix"] == "unset TRTLAB_TENSORRT_LIBRARY"
    text = on_gpu("doctor", TRTLAB_TENSORRT_LIBRARY=broken).out
    assert "unusable: " in text


def gpus(**changes: Any) -> dict[str, Any]:
    """What doctor has found on a machine with a GPU and everything that it needs."""
    return {
        "cuda": {"path": "libcudart.so.13", "devices": [{}], "error": None},
        "gpu": {"devices": ["/dev/nvidia0"]},
        "engines": {"tensorrt": {"usable": True, "error": None}},
        "builders": {"tensorrt": "10.16.1", "tensorrt_rtx": None},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "fixes"),
    [
        ({}, []),
        ({"cuda": {"path": None, "devices": [], "error": "gone"}}, ['pip "trtlab[cuda]"']),
        ({"cuda": {"path": None, "devices": [], "error": "gone"}, "gpu": {"devices": []}}, []),
        ({"cuda": {"path": "x", "devices": [], "error": "too old"}}, ["nvidia-smi"]),
        ({"cuda": {"path": "x", "devices": [], "error": "too old"}, "gpu": {"devices": []}}, []),
        ({"engines": {"tensorrt": {"usable": False, "error": "gone"}}}, ['pip "trtlab[tensorrt]"']),
        ({"builders": {"tensorrt": None, "tensorrt_rtx": None}}, ['pip "trtlab[tensorrt]"']),
    ],
)
def test_doctor_advises_what_is_missing_for_the_gpus_that_are_there(
    changes: dict[str, Any], fixes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (doctor_gpu.CUDART_VARIABLE, doctor_gpu.TENSORRT_VARIABLE, doctor_gpu.VISIBLE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    found = [problem["fix"] for problem in doctor_gpu.problems(gpus(**changes), "pip")]
    assert [fix.split("    #")[0] for fix in found] == fixes


def test_doctor_says_that_a_variable_hides_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(doctor_gpu.VISIBLE_VARIABLE, "")
    hidden = gpus(cuda={"path": "x", "devices": [], "error": "no device"})
    assert doctor_gpu.problems(hidden, "pip")[0]["fix"] == "unset CUDA_VISIBLE_DEVICES"


def test_json_of_a_run_on_the_cpu_has_nothing_of_gpus(run: Trtlab, double: Path) -> None:
    found = run("bench", double, "--concurrency", 1, *SHORT, "--json").json
    assert found["placement"] is None
    assert found["model"]["devices"] == ["cpu"]
    assert found["runs"][0]["graphs"] is None
    assert json.dumps(found["environment"]["cuda"])
