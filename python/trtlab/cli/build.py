"""``trtlab build``: from an ONNX file to a TensorRT plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from trtlab.cli import terminal
from trtlab.cli.loading import json_option, shape_text
from trtlab.plans import Built, Manifest, Progress, Store, StoreInfo
from trtlab.plans import build as build_plan
from trtlab.plans.options import HARDWARE_LEVELS, LIBRARIES, PRECISIONS

_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def _bytes(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    number, unit = (text[:-1], text[-1:].lower()) if not text.isdigit() else (text, "")
    if unit not in _SIZES or not number.isdigit() or not number.isascii() or len(number) > 18:
        raise click.BadParameter(f"expected bytes, or a number with K, M or G, got {text!r}", context, parameter)
    return int(number) * _SIZES[unit]


def _spelled(values: tuple[str, ...]) -> click.Choice[str]:
    return click.Choice([value.replace("_", "-") for value in values])


@click.command(short_help="Build a TensorRT plan from MODEL, an ONNX file.")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="PLAN", help="Write it there.  [default: MODEL.plan]"
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME=MIN:OPT:MAX[,...]",
    help="Shapes of the inputs, like data=1x3x224x224:8x3x224x224:32x3x224x224, or data=1x...:8x...:32x... where the "
    "model fixes the other axes. Several options are several profiles.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="float32",
    show_default=True,
    help="What float32 is computed in.",
)
@click.option("--library", type=click.Choice(list(LIBRARIES)), help="Build with this.  [default: what is installed]")
@click.option("--device", metavar="cuda:N", help="TensorRT: build on and for this GPU.  [default: the first]")
@click.option(
    "--compute-capability",
    metavar="X.Y[,...]",
    help="TensorRT-RTX: build for these GPUs only.  [default: 8.0 and above]",
)
@click.option(
    "--workspace", callback=_bytes, metavar="BYTES", help="Most scratch memory of a layer; K, M, G may follow."
)
@click.option("--timing-cache", type=click.Path(path_type=Path), help="TensorRT: its timings.  [default: in the cache]")
@click.option(
    "--strongly-typed/--weakly-typed",
    default=None,
    help="Whether types come from the ONNX alone.  [default: except for TensorRT 10's float16 and bfloat16]",
)
@click.option("--refittable", is_flag=True, help="Weights can be replaced later.")
@click.option("--weight-streaming", is_flag=True, help="Weights need not all be in the GPU's memory.")
@click.option("--version-compatible", is_flag=True, help="TensorRT: later releases of the same major load it too.")
@click.option("--hardware-compatible", type=_spelled(HARDWARE_LEVELS), help="TensorRT: GPUs beside this one.")
@click.option("--builder-flag", "builder_flags", multiple=True, metavar="NAME", help="A further BuilderFlag.")
@click.option("--sign-with", type=click.Path(path_type=Path), metavar="KEY.pem", help="Sign with this Ed25519 key.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="[default: $TRTLAB_CACHE_DIR or ~/.cache/trtlab]")
@click.option("--force", is_flag=True, help="Build even if the plan is in the cache.")
@click.option("--progress/--no-progress", default=None, help="Show a bar.  [default: on a terminal]")
@click.option("--cache-info", is_flag=True, help="Show what is in the cache, and exit.")
@click.option("--cache-clear", is_flag=True, help="Empty the cache, and exit.")
@json_option
def build(
    model: Path | None,
    output: Path | None,
    profiles: tuple[str, ...],
    hardware_compatible: str | None,
    workspace: int | None,
    cache_dir: Path | None,
    progress: bool | None,
    cache_info: bool,
    cache_clear: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Build a TensorRT plan from MODEL, an ONNX file, with NVIDIA's builder; or take it from the cache.

    PLAN.json, beside it, says what it was built from, with what and for which GPU. A key for --sign-with is made by:
    openssl genpkey -algorithm ed25519 -out KEY.pem

    Example: trtlab build resnet50.onnx --profile data=1x...:8x...:32x... --precision float16
    """
    if cache_info or cache_clear:
        if model is not None or (cache_info and cache_clear):
            raise click.UsageError("--cache-info and --cache-clear stand alone")
        store = Store(cache_dir)
        _print_cache(store.clear() if cache_clear else store.info(), cache_clear, as_json)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    with _bar(model, progress) as on_progress:
        built = build_plan(
            model,
            output if output is not None else model.with_suffix(".plan"),
            profiles=list(profiles) or None,
            hardware_compatible=(hardware_compatible or "none").replace("-", "_"),
            workspace_bytes=workspace,
            cache_dir=cache_dir,
            on_progress=on_progress,
            **more,
        )
    if as_json:
        terminal.print_json({"plan": str(built), "cached": built.cached, "manifest": built.manifest.as_dict()})
    else:
        _print(built)


@contextlib.contextmanager
def _bar(model: Path, wanted: bool | None) -> Iterator[Callable[[Progress], object] | None]:
    console = terminal.console(stderr=True)
    if wanted is False or (wanted is None and not console.is_terminal):
        yield None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(model.name, total=1.0)

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.fraction, description=f"{model.name}: {progress.phase}")

        yield show
        bar.update(task, completed=1.0, description=model.name)


def _print(built: Built) -> None:
    manifest = built.manifest
    source = "from the cache" if built.cached else "built now"
    signed = ", signed" if manifest.signature is not None else ""
    print(f"{built}: {terminal.size(manifest.plan_size_bytes)}, {source}{signed}")
    print(manifest.built_with())
    for warning in built.warnings:
        terminal.note(warning)
    rows = [
        (direction, tensor.name, tensor.dtype, shape_text(tensor.shape), *_profile_texts(manifest, tensor.name))
        for direction, tensors in (("input", manifest.inputs), ("output", manifest.outputs))
        for tensor in tensors
    ]
    titles = [f"profile {number}" for number in range(len(manifest.profiles))]
    terminal.print_table(("", "name", "dtype", "shape", *titles), rows, left=4 + len(titles))


def _profile_texts(manifest: Manifest, name: str) -> list[str]:
    return [
        ":".join("x".join(map(str, shape)) for shape in profile[name]) if name in profile else ""
        for profile in manifest.profiles
    ]


def _print_cache(info: StoreInfo, cleared: bool, as_json: bool) -> None:
    if as_json:
        terminal.print_json(
            {
                "folder": str(info.folder),
                "size_bytes": info.size_bytes,
                "limit_bytes": info.limit_bytes,
                "cleared": cleared,
                "plans": [
                    {"key": key, "manifest": None if manifest is None else manifest.as_dict()}
                    for key, manifest in info.plans
                ],
            }
        )
        return
    what = "removed" if cleared else f"of {terminal.size(info.limit_bytes)}"
    print(f"{info.folder}: {len(info.plans)} plans, {terminal.size(info.size_bytes)} {what}")
    if info.plans and not cleared:
        rows = [
            (key[:12], "damaged", "", "")
            if manifest is None
            else (key[:12], manifest.onnx_file, terminal.size(manifest.plan_size_bytes), manifest.built_with())
            for key, manifest in info.plans
        ]
        terminal.print_table(("key", "model", "size", "built with"), rows, left=4)
