"""Where a request's inputs lie before they are sent: in pageable or pinned memory of the host, or on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import numpy as np

from trtlab import Model
from trtlab.cli.loading import GPU, Command, GroupedOption, on_gpu
from trtlab.errors import InvalidArgument

PLACES = ("host", "pinned", "device")


def inputs_option(command: Command) -> Command:
    """--inputs."""
    return click.option(
        "--inputs",
        "place",
        cls=GroupedOption,
        group=GPU,
        type=click.Choice(PLACES),
        default="host",
        show_default=True,
        help="Where inputs lie: pinned ones are not copied on the host, those on the device not at all.",
    )(command)


def placed(model: Model, arrays: Mapping[str, Any], place: str, devices: str | list[str]) -> dict[str, Any]:
    """Return the inputs, moved to where they are to lie. Raises InvalidArgument where there is no such place."""
    if place == "host":
        return dict(arrays)
    if not on_gpu(model):
        raise InvalidArgument(f"--inputs {place} is for models on a GPU, this one is on {model.platform}")
    if place == "device" and isinstance(devices, list):
        raise InvalidArgument(f"--inputs device: an input lies on one GPU, got --device {','.join(devices)}")
    first = devices[0] if isinstance(devices, list) else devices
    device = "cuda" if first == "auto" else first
    return {spec.name: _move(spec.dtype, arrays[spec.name], place, device) for spec in model.inputs}


def _move(dtype: str, array: Any, place: str, device: str) -> Any:
    from trtlab import cuda

    # Lists are of a type that numpy lacks; pinned() has the one that says so.
    values = np.asarray(array, np.float32) if isinstance(array, list) else np.asarray(array)
    pinned = cuda.pinned(values.shape, dtype, device)
    pinned[...] = values
    if place == "pinned":
        return pinned
    moved = cuda.empty(values.shape, dtype, device)
    moved.copy_from(pinned)
    return moved
