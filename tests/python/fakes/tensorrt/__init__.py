"""A package of the shape of NVIDIA's ``tensorrt``, which builds nothing and writes down what it was told.

FAKE_TENSORRT is the version that it plays: "10.13.3.9", which chooses precisions by flags, or "11.4.0.106", which does
not.
``calls`` has what was called, ``ill`` what goes wrong: "parse", "build", "profile", "raise", "noisy".
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable
from typing import Any

import onnx

__version__ = os.environ["FAKE_TENSORRT"]
_IS_10 = __version__.startswith("10.")

calls: list[tuple[Any, ...]] = []
ill: set[str] = set()
plan_bytes: list[bytes] = [b"a plan of nobody"]
during_build: list[Callable[[], object]] = []


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.ready = True


class IProgressMonitor:
    def __init__(self) -> None:
        self.ready = True


BuilderFlag = enum.IntEnum(
    "BuilderFlag",
    (["FP16", "BF16", "INT8"] if _IS_10 else [])
    + ["TF32", "REFIT", "WEIGHT_STREAMING", "VERSION_COMPATIBLE", "STRICT_NANS", "DISABLE_TIMING_CACHE"],
    start=0,
)
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag", ["EXPLICIT_BATCH", "STRONGLY_TYPED"], start=0
)
MemoryPoolType = enum.IntEnum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"], start=0)
HardwareCompatibilityLevel = enum.IntEnum(
    "HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"], start=0
)
DataType = enum.IntEnum(
    "DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64"], start=0
)
ErrorCode = enum.IntEnum("ErrorCode", ["SUCCESS", "INTERNAL_ERROR", "INVALID_GRAPH", "UNSUPPORTED_NODE"], start=0)
_DTYPES = {1: DataType.FLOAT, 6: DataType.INT32, 7: DataType.INT64, 10: DataType.HALF}


class Tensor:
    def __init__(self, info: Any) -> None:
        self.name = info.name
        self.dtype = _DTYPES[info.type.tensor_type.elem_type]
        dims = info.type.tensor_type.shape.dim
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
        self.names = [dim.dim_param or None for dim in dims]
        self.is_shape_tensor = self.name.startswith("sizes")

    def get_dimension_name(self, axis: int) -> str | None:
        return self.names[axis]

    def set_dimension_name(self, axis: int, name: str) -> None:
        calls.append(("set_dimension_name", self.name, axis, name))
        self.names[axis] = name


class Network:
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class ParserError:
    def desc(self) -> str:
        return "no such thing"

    def node_name(self) -> str:
        return "relu"

    def node_operator(self) -> str:
        return "Relu"

    def node(self) -> int:
        return 2

    def code(self) -> ErrorCode:
        return ErrorCode.UNSUPPORTED_NODE


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        assert logger.ready
        self._network = network
        self.num_errors = 0

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_model_from_string(model)
        calls.append(("parse", path, sorted({tensor.data_type for tensor in proto.graph.initializer})))
        self._network.inputs = [Tensor(one) for one in proto.graph.input]
        self._network.outputs = [Tensor(one) for one in proto.graph.output]
        self.num_errors = 25 if "parse" in ill else 0
        return "parse" not in ill

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, likely: Any, most: Any) -> None:
        self.shapes[name] = (tuple(least), tuple(likely), tuple(most))

    def set_shape_input(self, name: str, least: Any, likely: Any, most: Any) -> None:
        self.shapes[name] = ("values", least, likely, most)


class TimingCache:
    def __init__(self, measured: set[str]) -> None:
        self.measured = measured

    def combine(self, other: TimingCache, ignore_mismatch: bool) -> bool:
        self.measured |= other.measured
        return True

    def serialize(self) -> memoryview:
        return memoryview(json.dumps(sorted(self.measured)).encode())


class Config:
    def __init__(self) -> None:
        self.progress_monitor: Any = None
        self._flags = {BuilderFlag.TF32}
        self._level: Any = HardwareCompatibilityLevel.NONE
        self._timing: TimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        calls.append(("pool", pool.name, size))

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._level

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        calls.append(("level", level.name))
        self._level = level

    def add_optimization_profile(self, profile: Profile) -> int:
        calls.append(("profile", profile.shapes))
        return -1 if "profile" in ill else 0

    def create_timing_cache(self, data: bytes) -> TimingCache | None:
        if data == b"garbage":
            return None
        return TimingCache(set(json.loads(data)) if data else set())

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if "of another version" in cache.measured and not ignore_mismatch:
            return False
        calls.append(("timing", sorted(cache.measured), ignore_mismatch))
        self._timing = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._timing


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger: Any = logger

    def create_network(self, flags: int = 0) -> Network:
        calls.append(("network", flags))
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
        calls.append(("build", sorted(flag.name for flag in config._flags)))
        self._logger.log(Severity.INFO, "of no interest")
        if "raise" in ill:
            raise RuntimeError("a binding's own exception")
        if "build" in ill:
            self._logger.log(Severity.ERROR, "the reason")
            return None
        if "noisy" in ill:
            self._logger.log(Severity.WARNING, "take care")
        for action in during_build:
            action()
        monitor = config.progress_monitor
        monitor.phase_start("whole", None, 2)
        for step in range(2):
            monitor.phase_start("part", "whole", 4)
            for inner in range(4):
                if not monitor.step_complete("part", inner):
                    return None
            monitor.phase_finish("part")
            if not monitor.step_complete("whole", step):
                return None
        monitor.phase_finish("whole")
        if config._timing is not None:
            config._timing.measured.add(f"kernel of {len(calls)}")
        return memoryview(plan_bytes[0])
