"""``trtlab bench``: how many answers a second, how long they take, and where the time goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import trtlab
from trtlab.bench import InferBench, Progress
from trtlab.cli import terminal
from trtlab.cli.bench_report import GRAPH_COUNTERS, Run, Subject, label, print_report, remark, report_json, shape_of
from trtlab.cli.images import ImageOptions
from trtlab.cli.loading import (
    GPU,
    EngineCommand,
    GroupedOption,
    engine_options,
    json_option,
    loaded,
    model_argument,
    numbers,
    on_gpu,
    outputs_option,
    size_option,
)
from trtlab.cli.placing import inputs_option, placed
from trtlab.cli.tensors import blaming, parse_shapes, random_inputs, read_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    Tell = Callable[[Progress], None]

# What a run with the GPU's times takes at the most: means settle soon.
TIMED_S = 1.0


@click.command(cls=EngineCommand)
@model_argument
@click.option(
    "--concurrency",
    callback=numbers(int),
    metavar="N[,N...]",
    help="Closed loop: requests outstanding, one run each.  [default: 1, the executions, and twice that]  "
    "Open loop: the most that may be outstanding, one number.  [default: 4096]",
)
@click.option(
    "--rate", "rates", callback=numbers(float), metavar="R[,R...]", help="Open loop: arrivals a second, one run each."
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Open loop: at random, or evenly spaced.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds of each run.",
)
@click.option("--warmup", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Seconds before each run.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the last answers.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Extent of the first axis of every input where that is open.  [default: 1]",
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="[NAME=]1x3x224x224", help="Shape of an input with open axes."
)
@click.option(
    "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help="Real inputs (as of infer) instead of random ones."
)
@size_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the random inputs and arrivals."
)
@click.option("--executions", type=click.IntRange(min=1), help="Requests that execute at the same time.")
@click.option(
    "--buffers", type=click.IntRange(min=1), help="Requests staged or executing.  [default: twice the executions]"
)
@engine_options
@inputs_option
@outputs_option
@click.option("--no-graphs", cls=GroupedOption, group=GPU, is_flag=True, help="Launch without CUDA graphs.")
@click.option(
    "--max-graphs",
    cls=GroupedOption,
    group=GPU,
    type=click.IntRange(min=1),
    help="CUDA graphs that are kept.  [default: 128]",
)
@click.option(
    "--timing/--no-timing",
    cls=GroupedOption,
    group=GPU,
    default=True,
    show_default=True,
    help="Repeat each run for up to a second with the GPU's own times, which cost some microseconds a request.",
)
@json_option
def bench(
    model: Path,
    concurrency: tuple[int, ...] | None,
    rates: tuple[float, ...] | None,
    arrivals: str,
    duration: float,
    warmup: float,
    drain: float,
    batch: int | None,
    shapes: tuple[str, ...],
    inputs: tuple[str, ...],
    size: tuple[int, int] | None,
    seed: int,
    executions: int | None,
    buffers: int | None,
    place: str,
    no_graphs: bool,
    timing: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Put MODEL under load.

    Without --rate, so many requests are always outstanding (closed loop): what does the model sustain? With it,
    requests arrive at that rate, come what may (open loop), and their latency counts from the moment at which they
    were due.

    Exits with 1 if requests failed for another reason than a full queue, or none was answered.
    """
    if rates is not None and concurrency is not None and len(concurrency) > 1:
        raise click.UsageError("--concurrency takes one number if --rate is given")
    if inputs and (shapes or batch is not None):
        raise click.UsageError("--shape and --batch are of random inputs; --input takes them from the files")
    engine["graphs"] = not no_graphs
    common: dict[str, Any] = {"warm_up_s": warmup, "drain_timeout_s": drain, "seed": seed}
    with loaded(model, **engine, executions=executions, buffers=buffers) as (manager, found):
        limits = manager.stats()
        if inputs:
            arrays, guessed = read_inputs(inputs, found, ImageOptions(size=size))
        else:
            arrays, guessed = random_inputs(found, parse_shapes(shapes, found), batch, seed)
        common["batch"] = _batch_of(found, arrays)
        arrays = placed(found, arrays, place, engine["device"])
        with blaming(guessed):
            found.infer(arrays).result()
        for guess in guessed:
            terminal.note(guess)
        plans: list[dict[str, Any]]
        if rates is not None:
            most = concurrency[0] if concurrency else None
            plans = [{"rate": rate, "load": arrivals, "concurrency": most} for rate in rates]
        else:
            tokens = limits["max_executions"]
            plans = [{"concurrency": count} for count in concurrency or sorted({1, tokens, 2 * tokens})]
        runs = _run_all(found, arrays, plans, {**common, "duration_s": duration}, limits["max_buffers"])
        subject = Subject(
            model, found, {name: shape_of(array) for name, array in arrays.items()}, limits, place, engine["outputs"]
        )
    if subject.on_gpu and timing:
        with loaded(model, **engine, executions=executions, buffers=buffers, timing=True) as (_, found):
            short = {**common, "duration_s": min(duration, TIMED_S)}
            timed = _run_all(found, arrays, plans, short, limits["max_buffers"])
        runs = [
            Run(replace(run.report, device_us=its.report.device_us), run.graphs)
            for run, its in zip(runs, timed, strict=True)
        ]
    if as_json:
        terminal.print_json(report_json(subject, warmup, runs))
    else:
        print_report(subject, runs)
    for run in runs:
        remark(run.report)
    if any(run.report.failures > run.report.overloaded or run.report.requests == 0 for run in runs):
        raise click.exceptions.Exit(1)


def _run_all(
    model: trtlab.Model, arrays: dict[str, Any], plans: list[dict[str, Any]], common: dict[str, Any], buffers: int
) -> list[Run]:
    load = InferBench(model, arrays)
    if on_gpu(model):
        # Each pair of execution and buffer compiles and captures for a shape that it has not seen.
        for future in [model.infer(arrays) for _ in range(3 * buffers)]:
            future.result()
    runs = []
    for plan in plans:
        before = model.counters()
        with _progress(label(plan)) as tell:
            report = load.run(**plan, **common, on_progress=tell)
        after = model.counters()
        graphs = {name: after[name] - before[name] for name in GRAPH_COUNTERS if name in after}
        runs.append(Run(report, graphs))
    return runs


def _batch_of(model: trtlab.Model, arrays: dict[str, Any]) -> int:
    """Inferences in one request: the first extent of the first input, where that is a batch."""
    if model.max_batch_size == 0 or not model.inputs:
        return 1
    return max(1, len(arrays[model.inputs[0].name]))


@contextmanager
def _progress(text: str) -> Iterator[Tell | None]:
    """Show a bar on stderr, if that is a terminal, for as long as the block takes."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[answered]} answered"))
    with Bars(*columns, console=terminal.console(stderr=True), transient=True) as bars:
        task = bars.add_task(text, answered=0)

        def tell(progress: Progress) -> None:
            bars.update(
                task,
                description=f"{text}, {progress.phase}",
                total=progress.planned_s or None,
                completed=min(progress.elapsed_s, progress.planned_s),
                answered=progress.answered,
            )

        yield tell
