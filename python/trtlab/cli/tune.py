"""``trtlab tune``: which batch, executions, buffers and graphs, and which limit they meet."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import trtlab
from trtlab.cli import terminal
from trtlab.cli.loading import (
    GPU,
    EngineCommand,
    GroupedOption,
    engine_options,
    json_option,
    load_arguments,
    model_argument,
    numbers,
    outputs_option,
    shape_text,
)
from trtlab.cli.placing import inputs_option, placed
from trtlab.cli.tensors import blaming, parse_shapes, random_inputs
from trtlab.tuning import LIMITS, Measurement, Setting, TuneReport
from trtlab.tuning import tune as search_best

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)(us|ms|s)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_GRAPHS = {"both": (True, False), "on": (True,), "off": (False,)}


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Make "15ms" 0.015."""
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not seconds > 0:
        raise click.BadParameter(f"expected a time like 15ms, 800us or 1.5s, got {text!r}", context, parameter)
    return seconds


@click.command(cls=EngineCommand, short_help="Find the best settings for MODEL, and what limits them.")
@model_argument
@click.option("--p99", "p99_s", callback=_time, metavar="TIME", help="Keep 99 % of the answers within 15ms, 800us, ...")
@click.option("--batch", "batches", callback=numbers(int), metavar="N[,N...]", help="To try.  [default: 1,2,4,8,16,32]")
@click.option(
    "--executions", callback=numbers(int), metavar="N[,N...]", help="To try.  [default: 1,2,3,4,8; on the CPU 1,2,4,8]"
)
@click.option(
    "--buffers",
    callback=numbers(int),
    metavar="N[,N...]",
    help="To try.  [default: 2, 4 and 8 for each execution, and one more than executions]",
)
@click.option(
    "--duration", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, help="Seconds each."
)
@click.option("--warmup", type=click.FloatRange(min=0), default=0.5, show_default=True, help="Seconds before each.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Begin nothing that would not be over after so many seconds.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="[NAME=]1x3x224x224",
    help="Shape of an input; --batch sets its first axis.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the random inputs.")
@engine_options
@inputs_option
@outputs_option
@click.option(
    "--graphs",
    cls=GroupedOption,
    group=GPU,
    type=click.Choice(list(_GRAPHS)),
    default="both",
    show_default=True,
    help="CUDA graphs to try.",
)
@json_option
def tune(
    model: Path,
    p99_s: float | None,
    batches: tuple[int, ...] | None,
    executions: tuple[int, ...] | None,
    buffers: tuple[int, ...] | None,
    duration: float,
    warmup: float,
    budget: float,
    shapes: tuple[str, ...],
    seed: int,
    place: str,
    graphs: str,
    streams: int | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Find the settings with the most inferences a second, and say which limit they meet.

    One direction after the other: a lone request, more executions, more buffers, without graphs (on the CPU: in one
    stream); then the next batch. A direction is left at the first step that brings less than 3 %. As many requests are
    outstanding as there are buffers.

    Exits with 1 if no setting keeps the bound, or none could be run.
    """
    guesses: list[str] = []
    used: dict[int, list[str]] = {}

    def inputs(found: trtlab.Model, batch: int) -> dict[str, Any]:
        given = parse_shapes(shapes, found)
        if found.max_batch_size > 0:
            given = {name: (batch, *shape[1:]) for name, shape in given.items()}
        used[batch] = [f"{name}={shape_text(shape)}" for name, shape in given.items()]
        arrays, guesses[:] = random_inputs(found, given, batch, seed)
        return placed(found, arrays, place, engine["device"])

    with blaming(guesses), _progress() as tell:
        report = search_best(
            model,
            inputs,
            batches=batches,
            executions=executions,
            buffers=buffers,
            graphs=_GRAPHS[graphs],
            streams=None if streams is None else (streams,),
            p99_s=p99_s,
            duration_s=duration,
            warm_up_s=warmup,
            budget_s=budget,
            on_measure=tell,
            **load_arguments(engine),
        )
    for guess in guesses:
        terminal.note(guess)
    if as_json:
        from trtlab.cli.doctor import environment

        terminal.print_json({"model": str(model), **report.as_dict(), "environment": environment()})
    else:
        _print(model, report)
        if report.verdict.best is not None:
            best = report.verdict.best
            print(f"again: {_command(model, best, used.get(best.batch, []), engine['device'], place)}")
    if report.best is None:
        raise click.exceptions.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[Setting], object] | None]:
    """Say on stderr, if that is a terminal, what is measured."""
    if not sys.stderr.isatty():
        yield None
        return
    with terminal.console(stderr=True).status("loading") as status:
        yield lambda setting: status.update(str(setting))


def _print(file: Path, report: TuneReport) -> None:
    verdict = report.verdict
    gpu = any(one.setting.graphs is not None for one in report.measurements)
    rows = [_row(one, gpu, one.setting == verdict.best, report.p99_us) for one in report.measurements]
    last = "graphs" if gpu else "streams"
    terminal.print_table(
        ("batch", "executions", "buffers", last, "inferences/s", "p50", "p99", "memory", ""),
        rows,
        f"{file}: {len(rows)} settings in {report.elapsed_s:.0f} s",
        left=0,
    )
    if not report.complete:
        terminal.note("the time given with --budget ended the search: there may be better settings")
    print(f"limit: {LIMITS[verdict.limit]}")
    for sentence in verdict.because:
        print(f"    {sentence}")
    for sentence in verdict.advice:
        print(f"  - {sentence}")


def _row(one: Measurement, gpu: bool, best: bool, p99_us: float | None) -> tuple[str, ...]:
    setting = one.setting
    last = ("yes" if setting.graphs else "no") if gpu else str(setting.streams or setting.executions)
    counts = (str(setting.batch), str(setting.executions), str(setting.buffers), last)
    if one.error is not None:
        return (*counts, "", "", "", "", one.error)
    on_device = sum(size for device, size in one.memory_bytes.items() if device.startswith("cuda:"))
    beyond = "beyond the bound" if p99_us is not None and one.p99_us > p99_us else ""
    return (
        *counts,
        terminal.number(one.inferences_per_second),
        terminal.time(one.p50_us),
        terminal.time(one.p99_us),
        terminal.size(on_device) if one.memory_bytes else "",
        "<- best" if best else beyond,
    )


def _command(file: Path, best: Setting, shapes: Sequence[str], device: str | list[str], place: str) -> str:
    """Return the command line that measures the best setting again."""
    words = ["trtlab", "bench", str(file)]
    words += [word for shape in shapes for word in ("--shape", shape)] or ["--batch", str(best.batch)]
    words += ["--executions", str(best.executions), "--buffers", str(best.buffers), "--concurrency", str(best.buffers)]
    if device != "auto":
        words += ["--device", device if isinstance(device, str) else ",".join(device)]
    if best.streams is not None:
        words += ["--streams", str(best.streams)]
    if best.graphs is False:
        words.append("--no-graphs")
    if place != "host":
        words += ["--inputs", place]
    return shlex.join(words)
