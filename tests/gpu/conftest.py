"""Tests that need an NVIDIA GPU, TensorRT (or TensorRT-RTX) and PyTorch; tests/gpu/run brings them to such a machine.

The models are those of bench/gpu/models.py: in $TRTLAB_GPU_MODELS if that is set, else made anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab

MAKER = Path(__file__).parents[2] / "bench" / "gpu" / "models.py"
# What the maker makes; what of it a builder refuses is in models.json.
NAMES = [
    *(f"double_{dtype}" for dtype in ("float32", "float16", "bfloat16", "int64", "int32", "bool")),
    "to_float8",
    "nonzero",
    "expanded",
    "two_profiles",
    "hungry",
    "resnet50_b1",
    "resnet50_b8",
    "resnet50_dynamic",
    "minilm",
    "wide96",
]


def why_no_gpu() -> str:
    """Return why these tests can't run here; empty where they can."""
    from trtlab import cuda

    try:
        return "" if cuda.device_count() > 0 else "no NVIDIA GPU"
    except trtlab.errors.Error as error:
        return f"no NVIDIA GPU: {error}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that is in this folder, and skip it where there is no GPU."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = why_no_gpu() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _index() -> dict[str, Any] | None:
    folder = os.environ.get("TRTLAB_GPU_MODELS")
    return None if folder is None else json.loads((Path(folder) / "models.json").read_text())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``model_name`` once for every model that there is."""
    if "model_name" in metafunc.fixturenames:
        index = _index()
        metafunc.parametrize("model_name", NAMES if index is None else [model["name"] for model in index["models"]])


class Models:
    """The folder of plans, and what models.json says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: dict[str, Any] = json.loads((folder / "models.json").read_text())
        self._entries: dict[str, dict[str, Any]] = {model["name"]: model for model in self.index["models"]}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._entries[name]

    def plan(self, name: str) -> Path:
        return self.folder / str(self._entries[name]["plan"])

    def onnx(self, name: str) -> Path:
        return self.folder / str(self._entries[name]["onnx"])

    def cases(self, name: str) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Return the requests, and their answers in higher precision; types that numpy lacks as integers."""
        found = []
        for file in self._entries[name]["cases"]:
            with np.load(self.folder / file) as arrays:
                split = {key: arrays[key] for key in arrays}
            found.append(
                (
                    {key[3:]: value for key, value in split.items() if key.startswith("in.")},
                    {key[4:]: value for key, value in split.items() if key.startswith("out.")},
                )
            )
        return found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    if folder := os.environ.get("TRTLAB_GPU_MODELS"):
        return Models(Path(folder))
    made = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, MAKER, made, "--widths", "96,320"], check=True, timeout=600)
    return Models(made)


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, imported only where the tests run."""
    import torch

    return torch


@pytest.fixture
def manager() -> Iterator[trtlab.InferenceManager]:
    with trtlab.InferenceManager(max_executions=2) as manager:
        yield manager
