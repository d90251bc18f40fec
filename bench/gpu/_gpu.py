"""What the Python benchmarks of the GPU share: the machine's GPU in words, the models, and arrays for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trtlab

sys.path.insert(0, str(Path(__file__).parent.parent))


def gpu() -> str:
    """Return the first GPU and its driver, as nvidia-smi names them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "-i", "0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return str(torch.cuda.get_device_name(0))


def used_bytes() -> int:
    """Return what of the GPU's memory the driver has given out."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(0)
    return int(total - free)


class Models:
    """The folder that models.py has filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, dict[str, Any]] = {
            model["name"]: model for model in json.loads((folder / "models.json").read_text())["models"]
        }

    def __getitem__(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            raise SystemExit(f"{self.folder} has no '{name}', only {', '.join(self._entries)}: see bench/gpu/models.py")
        return self._entries[name]

    def plan(self, name: str) -> Path:
        """Return the file of a plan."""
        return self.folder / str(self[name]["plan"])

    def set_of(self, name: str) -> list[str]:
        """Return the names of the models that belong to a set."""
        return [model["name"] for model in self._entries.values() if model["set"] == name]

    def case(self, name: str, number: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return one request's inputs, and its outputs in higher precision."""
        with np.load(self.folder / self[name]["cases"][number]) as arrays:
            split = {key: arrays[key] for key in arrays}
        return (
            {key[3:]: value for key, value in split.items() if key.startswith("in.")},
            {key[4:]: value for key, value in split.items() if key.startswith("out.")},
        )


def off_by(got: Any, expected: np.ndarray) -> float:
    """Return norm(got - expected) / norm(expected)."""
    exact = expected.astype(np.float64)
    return float(np.linalg.norm(np.asarray(got).astype(np.float64) - exact) / np.linalg.norm(exact))


def answer(model: trtlab.Model, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Run one request; the outputs on the host."""
    outputs = model.infer(inputs).result(60)
    return {name: value.to_host().numpy() for name, value in outputs.items()}


def values_of(text: str) -> Sequence[int]:
    """Return the numbers of "1,8,32"."""
    return [int(word) for word in text.split(",") if word]
