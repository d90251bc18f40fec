"""One build with the official builder: parse, profiles, flags, serialize; what it refuses arrives in its own words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtlab.errors import Cancelled, EngineError, Error, InvalidArgument
from trtlab.plans.capability import Gpu, current_gpu
from trtlab.plans.listening import Listener, listen, monitor
from trtlab.plans.manifest import PlanTensor
from trtlab.plans.options import Options
from trtlab.plans.profiles import Profile
from trtlab.plans.store import Store, write_file
from trtlab.plans.toolchain import Toolchain

__all__ = ["Job", "Plan", "build_plan"]

_MOST_ERRORS = 20
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
# The parser's codes for a file that is wrong in itself; the others are for what TensorRT does not have.
_WRONG_FILE = ("MODEL_DESERIALIZE_FAILED", "INVALID_GRAPH", "INVALID_NODE")


@dataclass(frozen=True)
class Job:
    """What is to be built. ``path`` is where external weights are looked for; ``gpu`` the one that is built on."""

    label: str
    data: bytes
    path: Path | None
    profiles: Sequence[Profile]
    options: Options
    gpu: Gpu | None


@dataclass(frozen=True)
class Plan:
    """A plan as the builder made it. ``data`` is a buffer that belongs to the builder's library."""

    data: Any
    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    runs_on: tuple[str, ...]
    strongly_typed: bool
    warnings: tuple[str, ...]


def build_plan(toolchain: Toolchain, job: Job, listener: Listener, timing: tuple[Store, Path] | None = None) -> Plan:
    """Build. Raises InvalidArgument, EngineError, Cancelled, or what the listener's callback raised.

    Blocks for seconds to hours; the builder releases the GIL.
    """
    module = toolchain.module
    with contextlib.ExitStack() as held:
        if job.gpu is not None:
            held.enter_context(current_gpu(job.gpu))
        logger = held.enter_context(listen(module, listener))
        try:
            plan = _build(toolchain, job, logger, listener, timing)
        except Error:
            raise
        except Exception as error:  # what the binding raises: TypeError, RuntimeError, MemoryError and others
            if listener.failure is not None:
                raise listener.failure from None
            raise EngineError(
                f"{job.label}: {toolchain.name}: {type(error).__name__}: {error}{listener.words()}"
            ) from error
    return plan


def _build(toolchain: Toolchain, job: Job, logger: Any, listener: Listener, timing: tuple[Store, Path] | None) -> Plan:
    module, options = toolchain.module, job.options
    builder = module.Builder(logger)
    strongly_typed = is_strongly_typed(toolchain, options)
    network = builder.create_network(_network_flags(toolchain, strongly_typed))
    parser = module.OnnxParser(network, logger)
    parsed = parser.parse(job.data, str(job.path)) if job.path is not None else parser.parse(job.data)
    _raise_failure(job, listener)
    if not parsed:
        raise _parser_error(toolchain, job, parser, listener)
    config = builder.create_builder_config()
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _set_flags(toolchain, config, options, strongly_typed, listener)
    runs_on = _set_target(toolchain, config, job)
    _separate_names(network)
    for profile in _profiles(job, network):
        _add_profile(toolchain, job, builder, config, network, profile, listener)
    progress = monitor(module, listener)
    if progress is not None:
        config.progress_monitor = progress
    with _timing_cache(config, timing):
        data = builder.build_serialized_network(network, config)
    _raise_failure(job, listener)
    if data is None:
        raise EngineError(f"{job.label}: {toolchain.name} built no plan{listener.words()}")
    return Plan(
        data=data,
        inputs=_tensors(toolchain, network.num_inputs, network.get_input),
        outputs=_tensors(toolchain, network.num_outputs, network.get_output),
        runs_on=runs_on,
        strongly_typed=strongly_typed,
        warnings=listener.lines,
    )


def is_strongly_typed(toolchain: Toolchain, options: Options) -> bool:
    """Return whether types come from the ONNX alone. Raises InvalidArgument if there is no way but the one refused.

    Left open, it is so wherever it gives the precision that was asked for: weak typing is TensorRT 10's way to make
    float16 of float32, and nothing else needs it.
    """
    if not toolchain.can_be_weakly_typed:
        if options.strongly_typed is False:
            raise InvalidArgument(
                f"strongly_typed=False: {toolchain.name} takes the type of every tensor from the ONNX file and has "
                "no other way; leave it out"
            )
        return True
    if options.strongly_typed is None:
        return options.precision not in ("float16", "bfloat16")
    return options.strongly_typed


def _network_flags(toolchain: Toolchain, strongly_typed: bool) -> int:
    flag = getattr(toolchain.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # TensorRT 11 keeps the flag, deprecated, and ignores it.
    chooses = toolchain.can_be_weakly_typed or toolchain.flavour == "tensorrt_rtx"
    return 1 << int(flag) if strongly_typed and flag is not None and chooses else 0


def _set_flags(toolchain: Toolchain, config: Any, options: Options, strongly_typed: bool, listener: Listener) -> None:
    wanted = set(options.builder_flags)
    if options.refittable:
        wanted.add("REFIT")
    if options.weight_streaming:
        wanted.add("WEIGHT_STREAMING")
    if options.version_compatible:
        wanted.add("VERSION_COMPATIBLE")
    if not strongly_typed and options.precision in ("float16", "bfloat16"):
        wanted.add({"float16": "FP16", "bfloat16": "BF16"}[options.precision])
    if options.precision == "tf32":
        wanted.add("TF32")
    elif options.precision == "float32" and "TF32" not in wanted and hasattr(toolchain.module.BuilderFlag, "TF32"):
        # On unless it is taken off: float32 would be rounded to 10 bits of mantissa.
        config.clear_flag(toolchain.flag("TF32"))
    for name in sorted(wanted):
        config.set_flag(toolchain.flag(name))
        if not config.get_flag(toolchain.flag(name)):
            raise EngineError(f"{toolchain.name} refuses the builder flag {name} in this combination{listener.words()}")


def _set_target(toolchain: Toolchain, config: Any, job: Job) -> tuple[str, ...]:
    options, module = job.options, toolchain.module
    if toolchain.builds_without_gpu:
        if options.hardware_compatible != "none":
            raise InvalidArgument(
                f"hardware_compatible: a plan of {toolchain.name} is compiled for the GPU when it is loaded, and runs "
                "on all from compute capability 8.0 on unless compute_capability narrows it; leave it out"
            )
        targets, runs_on = toolchain.targets(options.compute_capability)
        if targets:
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                if not config.set_compute_capability(target, index):
                    raise EngineError(f"{job.label}: {toolchain.name} refuses the compute capability {runs_on[index]}")
        return runs_on
    if options.hardware_compatible == "none":
        return (job.gpu.capability,) if job.gpu is not None else options.compute_capability
    level = getattr(getattr(module, "HardwareCompatibilityLevel", None), options.hardware_compatible.upper(), None)
    if level is None:
        raise InvalidArgument(
            f"hardware_compatible: {toolchain.name} does not have the level {options.hardware_compatible}"
        )
    config.hardware_compatibility_level = level
    if options.hardware_compatible == "ampere_plus":
        return ("8.0+",)
    return (job.gpu.capability,) if job.gpu is not None else options.compute_capability


def _separate_names(network: Any) -> None:
    """Take apart axes that share a name which is none.

    Some exporters call every open axis "?"; TensorRT takes axes of one name for axes of one size. One keeps the name,
    for the rest of the network refers to it.
    """
    seen: set[str] = set()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if not hasattr(tensor, "get_dimension_name") or len(tensor.shape) < 0:
            continue
        for axis in range(len(tensor.shape)):
            name = tensor.get_dimension_name(axis)
            if not name or _IDENTIFIER.fullmatch(name):
                continue
            if name in seen:
                tensor.set_dimension_name(axis, f"{tensor.name}.{axis}")
            seen.add(name)


def _profiles(job: Job, network: Any) -> Sequence[Profile]:
    """Return the profiles, once it is sure that they give values wherever values decide shapes."""
    held = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in held:
        if getattr(tensor, "is_shape_tensor", False) and not all(
            tensor.name in profile for profile in job.profiles or [{}]
        ):
            raise InvalidArgument(
                f"{job.label}: the values of input {tensor.name!r} decide shapes inside of the model: say which values "
                f"it may have, like {tensor.name}=1:8:32, or {tensor.name}=1x64:8x64:32x64 for two elements"
            )
    return job.profiles


def _add_profile(
    toolchain: Toolchain, job: Job, builder: Any, config: Any, network: Any, profile: Profile, listener: Listener
) -> None:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        ranges = profile.get(tensor.name)
        if ranges is None:
            continue
        if getattr(tensor, "is_shape_tensor", False):
            made.set_shape_input(tensor.name, *(list(values) for values in ranges))
            continue
        rank = len(tensor.shape)
        if any(len(shape) != rank for shape in ranges) or any(
            fixed >= 0 and size != fixed for shape in ranges for size, fixed in zip(shape, tensor.shape, strict=True)
        ):
            raise InvalidArgument(
                f"{job.label}: profile: input {tensor.name!r}: expected shapes like {_shape_text(tensor.shape)}, for "
                f"its values decide no shape; got {':'.join('x'.join(map(str, shape)) for shape in ranges)}"
            )
        made.set_shape(tensor.name, *ranges)
    if config.add_optimization_profile(made) < 0:
        raise InvalidArgument(f"{job.label}: {toolchain.name} refuses a profile{listener.words()}")


def _shape_text(shape: Any) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape)


def _tensors(toolchain: Toolchain, count: int, get: Any) -> tuple[PlanTensor, ...]:
    found = []
    for index in range(count):
        tensor = get(index)
        shape = tuple(tensor.shape) if len(tensor.shape) >= 0 else ()
        found.append(
            PlanTensor(
                str(tensor.name), toolchain.dtype(tensor.dtype), tuple(None if size < 0 else size for size in shape)
            )
        )
    return tuple(found)


def _parser_error(toolchain: Toolchain, job: Job, parser: Any, listener: Listener) -> Error:
    wrong_file = False
    words = []
    for index in range(min(parser.num_errors, _MOST_ERRORS)):
        error = parser.get_error(index)
        node, operator, number = _ask(error, "node_name"), _ask(error, "node_operator"), _ask(error, "node")
        where = f"node {node!r} ({operator}, number {number}): " if operator else ""
        words.append(f"{where}{_ask(error, 'desc')}")
        wrong_file |= getattr(_ask(error, "code"), "name", "") in _WRONG_FILE
    said = "; ".join(words) or f"no reason given{listener.words()}"
    more = parser.num_errors - len(words)
    text = (
        f"{job.label}: the parser of {toolchain.name} cannot take it: {said}{f'; and {more} more' if more > 0 else ''}"
    )
    return InvalidArgument(text) if wrong_file else EngineError(text)


def _ask(error: Any, name: str) -> Any:
    method = getattr(error, name, None)
    return method() if method is not None else ""


def _raise_failure(job: Job, listener: Listener) -> None:
    if listener.failure is not None:
        raise listener.failure
    if listener.cancelled:
        raise Cancelled(f"{job.label}: the build was cancelled: on_progress answered False")


@contextlib.contextmanager
def _timing_cache(config: Any, timing: tuple[Store, Path] | None) -> Iterator[None]:
    """Lend the builder what was measured before, and keep what it measures."""
    if timing is None:
        yield
        return
    store, path = timing
    before = _bytes(path)
    lent = config.create_timing_cache(before)
    # One of another version or GPU, or a damaged one, is refused: the builder then measures anew.
    if lent is None or not config.set_timing_cache(lent, False):
        lent = config.create_timing_cache(b"")
        config.set_timing_cache(lent, False)
    yield
    measured = config.get_timing_cache()
    if measured is None:
        return
    with store.locked(f"timing-{path.name}"):
        now = _bytes(path)
        other = config.create_timing_cache(now) if now not in (b"", before) else None
        if other is not None:  # by another process, meanwhile
            measured.combine(other, False)
        try:
            write_file(path, measured.serialize())
        except OSError as error:
            raise EngineError(f"the timing cache {path} cannot be written: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise EngineError(f"the timing cache {path} cannot be read: {error}") from error
