"""trtlab doctor: what it finds, and what it advises."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trtlab
from trtlab.cli import doctor

Trtlab = Callable[..., Any]  # as `run` in conftest.py gives it
Command = Callable[..., list[str]]


def test_doctor_finds_the_engine(run: Trtlab) -> None:
    found = run("doctor", "--json").json
    assert found["ok"] is True
    assert found["trtlab"]["version"] == trtlab.__version__
    assert found["cpu"]["usable"] == trtlab.usable_cpus()
    assert found["memory"]["total_bytes"] > found["memory"]["available_bytes"] > 0
    engine = found["engines"]["openvino"]
    assert engine["usable"]
    assert "CPU" in engine["devices"]
    assert Path(engine["path"]).is_file()
    said = run("doctor")
    assert said.status == 0
    assert engine["version"] in said.out
    assert said.out.splitlines()[-1].startswith("ok: models can be run on the CPU")


def test_doctor_without_an_engine_says_how_to_get_one(tmp_path: Path, command: Command) -> None:
    env = {**os.environ, "TRTLAB_OPENVINO_LIBRARY": str(tmp_path / "nothing.so")}
    done = subprocess.run(command("doctor"), capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (1, "")
    assert "missing: an engine for the CPU" in done.stdout
    assert done.stdout.count("nothing.so") == 1
    assert done.stdout.splitlines()[-2].strip() == "unset TRTLAB_OPENVINO_LIBRARY"
    as_json = subprocess.run(command("doctor", "--json"), capture_output=True, text=True, check=False, env=env)
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["ok"] is False


def test_doctor_asks_for_the_extra_when_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(doctor.LIBRARY_VARIABLE, raising=False)
    engine = {"usable": False, "error": "it is not there"}
    found = {"engines": {"openvino": engine}, "packages": {"openvino": None, "pillow": None}}
    fixes = [problem["fix"] for problem in doctor._problems(found)]
    assert [fix.split("install ")[1] for fix in fixes] == ['"trtlab[cpu]"', '"trtlab[image]"']
    found["packages"]["openvino"] = "2020.1"
    assert '--force-reinstall "openvino' in doctor._problems(found)[0]["fix"]
    monkeypatch.setenv(doctor.LIBRARY_VARIABLE, "elsewhere.so")
    assert doctor._problems(found)[0]["fix"] == f"unset {doctor.LIBRARY_VARIABLE}"
    found["packages"]["openvino"] = None
    unset, install = doctor._problems(found)[0]["fix"].split("; ")
    assert unset == f"unset {doctor.LIBRARY_VARIABLE}"
    assert install.endswith('-m pip install "trtlab[cpu]"')


def test_numa_nodes_are_read_from_sysfs(tmp_path: Path) -> None:
    for node, cpus in ((0, "0-3,8"), (10, ""), (1, "4-7")):
        folder = tmp_path / f"node{node}"
        folder.mkdir()
        (folder / "cpulist").write_text(f"{cpus}\n")
        (folder / "meminfo").write_text(f"Node {node} MemTotal:       {1024 + node} kB\nNode {node} MemFree: 5 kB\n")
    (tmp_path / "node3").mkdir()
    (tmp_path / "possible").write_text("0-10\n")
    assert doctor.numa_nodes(tmp_path) == [
        {"node": 0, "cpus": "0-3,8", "memory_bytes": 1024 * 1024},
        {"node": 1, "cpus": "4-7", "memory_bytes": 1025 * 1024},
        {"node": 3, "cpus": "", "memory_bytes": None},
        {"node": 10, "cpus": "", "memory_bytes": 1034 * 1024},
    ]
    assert doctor.numa_nodes(tmp_path / "nowhere") == []


def test_gpus_are_the_numbered_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert doctor.gpu_devices(tmp_path) == [str(tmp_path / "nvidia0"), str(tmp_path / "nvidia1")]


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor : 0\nmodel : 85\nmodel name\t: Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("processor : 0\nHardware\t: Some Board\n", "Some Board"),
        ("processor : 0\n", None),
    ],
)
def test_the_cpu_model_is_read_from_cpuinfo(tmp_path: Path, text: str, model: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert doctor.cpu_model(tmp_path / "cpuinfo") == model
    assert doctor.cpu_model(tmp_path / "nowhere") is None
