"""Options that several commands share, and the model that they load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from trtlab import InferenceManager, Model, TensorSpec

Command = TypeVar("Command", bound=Callable[..., Any])

Shape = tuple["int | None | tuple[int, int | None]", ...]


def model_argument(command: Command) -> Command:
    """MODEL: a file."""
    return click.argument("model", type=click.Path(path_type=Path))(command)


class EngineCommand(click.Command):
    """A command whose help has what is of one kind of engine under a heading of its own."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of no group first."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], **{name: [] for name in GROUPS}}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups[getattr(parameter, "group", "Options")].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


CPU, GPU = "On the CPU", "On a GPU"
GROUPS = (CPU, GPU)


class GroupedOption(click.Option):
    """An option of one kind of engine."""

    def __init__(self, *arguments: Any, group: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


def engine_options(command: Command) -> Command:
    """--device and what goes with it: what every command that loads a model takes."""
    options = (
        click.option(
            "--device",
            callback=_devices,
            metavar="DEVICE[,...]",
            default="auto",
            show_default=True,
            help="cpu, cuda, cuda:1, cuda:GPU-<uuid>, several GPUs with commas between them, or auto: a plan goes to "
            "the first GPU, ONNX too if there are a GPU and a builder.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
            default="float32",
            show_default=True,
            help="What float32 is computed in.",
        ),
        click.option(
            "--streams",
            cls=GroupedOption,
            group=CPU,
            type=click.IntRange(min=1),
            help="Requests computed side by side.  [default: as many as execute]",
        ),
        threads_option,
        *GPU_OPTIONS,
    )
    return _with(command, options)


threads_option = click.option(
    "--threads",
    cls=GroupedOption,
    group=CPU,
    type=click.IntRange(min=1),
    help="Of all streams together.  [default: the usable CPUs]",
)

GPU_OPTIONS = (
    click.option(
        "--profile",
        "profiles",
        cls=GroupedOption,
        group=GPU,
        multiple=True,
        metavar="NAME=MIN:OPT:MAX[,...]",
        help="ONNX: the shapes to build for, as of trtlab build.",
    ),
    click.option(
        "--weights",
        cls=GroupedOption,
        group=GPU,
        type=click.Choice(["device", "managed"]),
        help="Where weights lie: in the GPU's memory, or in memory that moves between GPU and host.  [default: device]",
    ),
)

outputs_option = click.option(
    "--outputs",
    cls=GroupedOption,
    group=GPU,
    type=click.Choice(["host", "device"]),
    default="host",
    show_default=True,
    help="Where answers lie.",
)


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def _devices(context: click.Context, parameter: click.Parameter, text: str) -> str | list[str]:
    names = text.split(",")
    return names if len(names) > 1 else text


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")(command)


def size_option(command: Command) -> Command:
    """--size."""
    return click.option(
        "--size",
        callback=_height_and_width,
        metavar="HEIGHTxWIDTH",
        help="Pictures: resize to this where the model leaves it open.  [default: as they are]",
    )(command)


def _height_and_width(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width)
        if min(size) < 1:
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"expected a height and a width like 48x320, got {text!r}", context, parameter
        ) from None
    return size


def numbers(
    kind: type[int] | type[float], signed: bool = False
) -> Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...] | None]:
    """Return a callback that makes "1,2,4" a tuple of ``kind``; above 0 unless ``signed``."""

    def parse(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[Any, ...] | None:
        if text is None:
            return None
        try:
            parsed = tuple(kind(part) for part in text.split(","))
            if not all(math.isfinite(number) and (signed or number > 0) for number in parsed):
                raise ValueError
        except ValueError:
            least = "" if signed else " above 0"
            raise click.BadParameter(
                f"expected numbers{least} with commas between them, got {text!r}", context, parameter
            ) from None
        return parsed

    return parse


@contextmanager
def loaded(
    file: Path, *, executions: int | None = None, buffers: int | None = None, **engine: Any
) -> Iterator[tuple[InferenceManager, Model]]:
    """Load the file into a manager of its own; what still runs when the block is left by an exception is cancelled."""
    manager = InferenceManager(max_executions=executions, max_buffers=buffers)
    try:
        yield manager, manager.load(file.stem, file, **load_arguments(engine))
    except BaseException:
        manager.close(cancel_pending=True)
        raise
    manager.close()


def load_arguments(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as ``InferenceManager.load`` has them; what was not given is left out."""
    given = {name: value for name, value in engine.items() if value is not None and value != ()}
    if "profiles" in given:
        given["profiles"] = list(given["profiles"])
    return given


def on_gpu(model: Model) -> bool:
    """Whether a GPU computes it."""
    return model.platform.startswith("tensorrt")


def shape_text(shape: Shape | None) -> str:
    """Return "1x3x?x1..32"; "scalar" for rank 0, "any" for any rank."""
    if shape is None:
        return "any"
    return "x".join(map(axis_text, shape)) or "scalar"


def axis_text(axis: int | None | tuple[int, int | None]) -> str:
    """Return "3", "?", "1..32" or "4..": what one axis accepts."""
    if axis is None:
        return "?"
    if isinstance(axis, int):
        return str(axis)
    return f"{axis[0]}..{'' if axis[1] is None else axis[1]}"


def shape_json(shape: Shape | None) -> list[Any] | None:
    """Return an int, null or [min, max] for each axis; None for any rank."""
    return None if shape is None else [list(axis) if isinstance(axis, tuple) else axis for axis in shape]


def spec_json(spec: TensorSpec) -> dict[str, Any]:
    """Return name, dtype and shape."""
    return {"name": spec.name, "dtype": spec.dtype, "shape": shape_json(spec.shape)}
