"""``trtlab infer``: one question from files, the answer into a file or a table."""

from __future__ import annotations

import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from trtlab.cli import terminal
from trtlab.cli.images import ImageOptions
from trtlab.cli.loading import (
    EngineCommand,
    engine_options,
    json_option,
    loaded,
    model_argument,
    numbers,
    shape_text,
    size_option,
)
from trtlab.cli.tensors import Array, blaming, read_inputs

MAX_ROWS = 16


@click.command(cls=EngineCommand)
@model_argument
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="An input: .npy, .npz or a picture. Several files for one name are joined along the first axis. "
    "An .npz without a name holds inputs by name.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.npz", help="Write the outputs there.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Ask so often, and say how long it took."
)
@click.option("--top", type=click.IntRange(min=1), help="Show the largest elements of each row of each output.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "NCHW", "NHWC"], case_sensitive=False),
    default="auto",
    show_default=True,
    help="Pictures: order of the axes.",
)
@click.option(
    "--scale", type=float, help="Pictures: (pixel * SCALE - MEAN) / STD.  [default: 1/255 for floats, else 1]"
)
@click.option(
    "--mean",
    metavar="M[,M...]",
    callback=numbers(float, signed=True),
    default="0",
    show_default=True,
    help="Pictures: one number, or one a channel.",
)
@click.option(
    "--std",
    metavar="M[,M...]",
    callback=numbers(float, signed=True),
    default="1",
    show_default=True,
    help="Pictures: one number, or one a channel.",
)
@size_option
@click.option("--bgr", is_flag=True, help="Pictures: blue comes first, as OpenCV has it.")
@engine_options
@json_option
def infer(
    model: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    repeat: int,
    top: int | None,
    layout: str,
    scale: float | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int] | None,
    bgr: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Ask MODEL for one answer.

    Example: trtlab infer resnet50.onnx --input cat.png --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --top 5
    """
    if output is not None and output.suffix != ".npz":
        raise click.UsageError(f"--output: expected a file that ends with .npz, got {output}")
    options = ImageOptions(layout if layout == "auto" else layout.upper(), scale, mean, std, bgr, size)
    with loaded(model, **engine, executions=1) as (_, found):
        arrays, guessed = read_inputs(inputs, found, options)
        times_us = []
        for _ in range(repeat):
            begin = time.perf_counter()
            with blaming(guessed):
                answer = found.infer(arrays).result()
            times_us.append((time.perf_counter() - begin) * 1e6)
        dtypes = {name: tensor.dtype for name, tensor in answer.items()}
        outputs: dict[str, Array] = {name: np.asarray(tensor) for name, tensor in answer.items()}
        if output is not None:
            _write(output, outputs)
        summaries = [_summary(name, dtypes[name], array, top) for name, array in outputs.items()]
    median = sorted(times_us)[len(times_us) // 2]
    if as_json:
        timing = {"repeat": repeat, "min_us": min(times_us), "median_us": median, "max_us": max(times_us)}
        terminal.print_json({"outputs": summaries, "time": timing})
        return
    _print(summaries, top)
    if repeat > 1:
        print(
            f"{repeat} times, one after the other: {terminal.time(min(times_us))} at least, "
            f"{terminal.time(median)} in the median, {terminal.time(max(times_us))} at most"
        )
    if output is not None:
        terminal.note(f"written: {output}")


def _summary(name: str, dtype: str, array: Array, top: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(array.shape)}
    if array.dtype.kind not in "biuf" or array.size == 0:
        return found
    # float16 overflows in a mean, and bool has none.
    values = array if array.dtype.kind in "iu" else array.astype(np.float64)
    found.update(min=values.min().item(), max=values.max().item(), mean=float(values.mean(dtype=np.float64)))
    if top is not None and array.ndim > 0:
        rows = values.reshape(-1, array.shape[-1])
        found["top"] = [
            [
                {"index": int(index), "value": row[index].item()}
                for index in np.argsort(-row.astype(np.float64), kind="stable")[:top]
            ]
            for row in rows[:MAX_ROWS]
        ]
        found["rows"] = len(rows)
    return found


def _print(summaries: list[dict[str, Any]], top: int | None) -> None:
    rows = []
    for summary in summaries:
        figures = [terminal.number(summary[key]) if key in summary else "" for key in ("min", "max", "mean")]
        rows.append((summary["name"], summary["dtype"], shape_text(tuple(summary["shape"])), *figures))
    terminal.print_table(("output", "dtype", "shape", "min", "max", "mean"), rows, left=3)
    for summary in summaries:
        if "top" not in summary:
            continue
        lines = [
            (str(row), str(place + 1), str(item["index"]), terminal.number(item["value"]))
            for row, items in enumerate(summary["top"])
            for place, item in enumerate(items)
        ]
        terminal.print_table(("row", "place", "index", "value"), lines, title=f"{summary['name']}, top {top}", left=0)
        if summary["rows"] > MAX_ROWS:
            print(f"... of {summary['rows']} rows; --output has them all")


def _write(file: Path, outputs: Mapping[str, Array]) -> None:
    """Write an .npz in one go: whoever reads it never sees half of it."""
    # Not np.savez: it could not write an output called "file".
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w", allowZip64=True) as archive:
            for name, array in outputs.items():
                # Byte strings come as objects, which only pickle could write.
                plain = array.astype("S") if array.dtype == object else array
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, plain, allow_pickle=False)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
