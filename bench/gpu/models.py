#!/usr/bin/env python3
"""Makes the models of the GPU benchmarks and tests: ONNX, plans for the GPU of this machine, and references.

Needs PyTorch, onnx, and NVIDIA's builder, `tensorrt_rtx` or `tensorrt`. A machine without a GPU builds plans too, of
TensorRT-RTX; PyTorch then computes the references on its CPU.

DIR/models.json says what there is; every case is an .npz with the inputs ("in.<tensor>") and what a computation in a
higher precision made of them ("out.<tensor>"). Types that numpy lacks are stored as integers of their size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _recipes import Maker, Recipe


class Builder:
    """NVIDIA's builder, as little of it as is needed."""

    def __init__(self, module: str) -> None:
        self.api = importlib.import_module(module)
        said: list[str] = []
        self.said = said

        class Logger(self.api.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self, worst: Any) -> None:
                super().__init__()
                self.worst = worst

            def log(self, severity: Any, message: str) -> None:
                """Keep errors and warnings for the exception."""
                if severity <= self.worst:
                    said.append(message)

        self.logger = Logger(self.api.ILogger.WARNING)

    def build(self, onnx: bytes, recipe: Recipe) -> bytes:
        """Return the plan. Raises RuntimeError with the builder's words."""
        api = self.api
        self.said.clear()
        builder = api.Builder(self.logger)
        network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = api.OnnxParser(network, self.logger)
        if not parser.parse(onnx):
            raise RuntimeError("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
        config = builder.create_builder_config()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if recipe.static is not None:
                tensor.shape = recipe.static[tensor.name]
        for shapes in recipe.profiles:
            profile = builder.create_optimization_profile()
            for name, (low, best, high) in shapes.items():
                profile.set_shape(name, low, best, high)
            config.add_optimization_profile(profile)
        if recipe.values is not None:
            profile = builder.create_optimization_profile()
            for name, (low, best, high) in recipe.values.items():
                profile.set_shape_input(name, low, best, high)
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError("; ".join(self.said[-3:]) or "the builder gave no plan and no reason")
        return bytes(plan)


def main() -> int:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="where everything goes; what is there is made anew, with --only in part"
    )
    parser.add_argument("--builder", default="tensorrt_rtx", choices=["tensorrt_rtx", "tensorrt"])
    parser.add_argument("--only", default="", help="names, or beginnings of names, of models: resnet50_b1,double_")
    parser.add_argument("--batches", default="1,8,32", help="of the static ResNet-50 plans (default %(default)s)")
    parser.add_argument("--widths", default="96,128,160,192,224,256,288,320", help="of the set for the memory table")
    parser.add_argument("--ocr", type=Path, help="a folder with PP-OCR's *cls*.onnx and *rec*.onnx")
    parser.add_argument("--seed", type=int, help="of weights and inputs (default: another one each time)")
    arguments = parser.parse_args()

    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "models.json"
    wanted = tuple(name for name in arguments.only.split(",") if name)
    earlier = json.loads(index.read_text())["models"] if wanted and index.exists() else []
    if not wanted:
        for stale in (file for suffix in ("onnx", "plan", "npz", "json") for file in folder.glob(f"*.{suffix}")):
            stale.unlink()
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    builder = Builder(arguments.builder)
    maker = Maker(folder, seed, arguments.ocr)
    version = builder.api.__version__
    print(f"models into {folder}: seed {seed}, {arguments.builder} {version}, torch {torch.__version__}", flush=True)

    groups: list[Callable[[], list[Recipe]]] = [
        maker.small,
        lambda: maker.resnets([int(n) for n in arguments.batches.split(",")]),
        maker.minilm,
        lambda: maker.wides([int(n) for n in arguments.widths.split(",")]),
        maker.texts,
    ]
    prefixes = (
        ("double_", "to_", "nonzero", "expanded", "two_", "hungry"),
        ("resnet50",),
        ("minilm",),
        ("wide",),
        ("ocr_",),
    )
    models: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    failed = 0
    for group, begins in zip(groups, prefixes, strict=True):
        if wanted and not any(w.startswith(b) or b.startswith(w) for w in wanted for b in begins):
            continue
        begin = time.monotonic()
        try:
            recipes = group()
        except Exception as error:  # the other groups are made nevertheless
            failed += 1
            print(f"  {begins[0]}...: NOT EXPORTED: {error!r}", flush=True)
            continue
        print(f"  {'exported':<24} {time.monotonic() - begin:7.2f} s", flush=True)
        for recipe in recipes:
            if wanted and not recipe.name.startswith(wanted):
                continue
            begin = time.monotonic()
            try:
                plan = builder.build((folder / recipe.onnx).read_bytes(), recipe)
            except RuntimeError as error:
                failed += not recipe.needs_gpu
                refused[recipe.name] = str(error)[:400]
                print(f"  {recipe.name:<24} NOT BUILT: {refused[recipe.name]}", flush=True)
                continue
            built = time.monotonic() - begin
            (folder / f"{recipe.name}.plan").write_bytes(plan)
            cases = []
            for number, case in enumerate(recipe.cases()):
                file = f"{recipe.name}.{number}.npz"
                np.savez(
                    folder / file,
                    **{f"in.{name}": value for name, value in case.inputs.items()},
                    **{f"out.{name}": value for name, value in case.outputs.items()},
                )
                cases.append(file)
            models.append(
                {
                    "name": recipe.name,
                    "onnx": recipe.onnx,
                    "plan": f"{recipe.name}.plan",
                    "inputs": dict(recipe.inputs),
                    "outputs": dict(recipe.outputs),
                    "static": recipe.static,
                    "profiles": list(recipe.profiles),
                    "values": recipe.values,
                    "tolerance": recipe.tolerance,
                    "set": recipe.set_of,
                    "cases": cases,
                    "plan_bytes": len(plan),
                    "build_s": round(built, 3),
                }
            )
            rest = time.monotonic() - begin - built
            print(
                f"  {recipe.name:<24} {built:7.2f} s, {len(plan) / 2**20:7.1f} MiB, references {rest:5.2f} s",
                flush=True,
            )
    made = {model["name"] for model in models}
    models += [model for model in earlier if model["name"] not in made]
    what = {"seed": seed, "builder": arguments.builder, "version": version, "models": models, "refused": refused}
    index.write_text(json.dumps(what, indent=1))
    print(f"{len(made)} plans; not built: {', '.join(refused) or 'none'}", flush=True)
    return 1 if failed or not made else 0


if __name__ == "__main__":
    sys.exit(main())
