"""``trtlab inspect``: what a model takes and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtlab.cli import terminal
from trtlab.cli.inspect_plan import inspect_plan
from trtlab.cli.loading import (
    GPU,
    EngineCommand,
    GroupedOption,
    engine_options,
    json_option,
    loaded,
    model_argument,
    shape_text,
    spec_json,
)
from trtlab.loading import PLAN_SUFFIXES


@click.command(cls=EngineCommand, short_help="Show the inputs and outputs of MODEL.")
@model_argument
@engine_options
@click.option(
    "--layers", cls=GroupedOption, group=GPU, is_flag=True, help="A plan: its layers, as TensorRT tells them."
)
@click.option(
    "--layer-times",
    cls=GroupedOption,
    group=GPU,
    is_flag=True,
    help="A plan: run it, and say how long each layer took.",
)
@json_option
def inspect(model: Path, layers: bool, layer_times: bool, as_json: bool, **engine: Any) -> None:
    """Show the inputs and outputs of MODEL: an ONNX file, an OpenVINO IR (.xml), or a TensorRT plan.

    Of a plan also profiles, formats, memory and what it was built with; without a GPU what its manifest says.
    """
    device = engine["device"]
    if model.suffix.lower() in PLAN_SUFFIXES and isinstance(device, str) and device != "cpu":
        inspect_plan(model, device, layers=layers, layer_times=layer_times, as_json=as_json)
        return
    if layers or layer_times:
        raise click.UsageError("--layers and --layer-times are of a plan on one GPU: trtlab build makes one")
    with loaded(model, **engine, executions=1) as (_, found):
        size_bytes = model.stat().st_size
        weights = model.with_suffix(".bin")
        if model.suffix == ".xml" and weights.is_file():
            size_bytes += weights.stat().st_size
        max_batch = _max_batch(found.max_batch_size)
        if as_json:
            terminal.print_json(
                {
                    "file": str(model),
                    "size_bytes": size_bytes,
                    "platform": found.platform,
                    "max_batch_size": max_batch,
                    "inputs": [spec_json(spec) for spec in found.inputs],
                    "outputs": [spec_json(spec) for spec in found.outputs],
                }
            )
            return
        batch = "any batch" if max_batch is None else f"batch up to {max_batch}" if max_batch else "no batch axis"
        print(f"{model}: {terminal.size(size_bytes)}, on {found.platform}, {batch}")
        rows = [
            (direction, spec.name, spec.dtype, shape_text(spec.shape))
            for direction, specs in (("input", found.inputs), ("output", found.outputs))
            for spec in specs
        ]
        terminal.print_table(("", "name", "dtype", "shape"), rows, left=4)


def _max_batch(size: int) -> int | None:
    """None for a leading axis without bound, 0 for none."""
    return None if size == 2**63 - 1 else size
