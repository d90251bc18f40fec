"""The official builder, NVIDIA's Python package ``tensorrt`` or ``tensorrt_rtx``: found, opened, asked what it can."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trtlab.errors import EngineError, InvalidArgument
from trtlab.manager import shown
from trtlab.plans.capability import numbers
from trtlab.plans.manifest import library_name
from trtlab.plans.options import LIBRARIES

__all__ = ["Toolchain", "find_library"]

_EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
_NEEDED = ("Builder", "OnnxParser", "ILogger", "BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType")
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "FP4": "float4_e2m1fn",
    "E8M0": "float8_e8m0fnu",
}


def find_library(library: Any) -> str:
    """Return the name of the package to build with; None is whichever is installed, full TensorRT first.

    Imports nothing. Raises EngineError saying what to install, InvalidArgument for a name that is neither.
    """
    if library is not None and library not in LIBRARIES:
        raise InvalidArgument(f"library: expected one of {', '.join(LIBRARIES)}, or None, got {shown(library)}")
    for name in LIBRARIES if library is None else (library,):
        if _is_installed(name):
            return name
    if library is None:
        raise EngineError(
            "building a plan needs NVIDIA's builder, and neither tensorrt nor tensorrt_rtx is installed: "
            'pip install "trtlab[rtx]" for TensorRT-RTX, pip install "trtlab[tensorrt]" for TensorRT'
        )
    raise EngineError(
        f"building a plan with {library_name(library)} needs NVIDIA's package {library}, which is not installed: "
        f'pip install "trtlab[{_EXTRAS[library]}]"'
    )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # in sys.modules, without a spec
        return True


@dataclass(frozen=True)
class Toolchain:
    """An opened builder package. ``version`` is as the package has it, "1.4.0.76"."""

    flavour: str
    module: Any
    version: str

    @classmethod
    def open(cls, library: str | None = None) -> Toolchain:
        """Import the package. Raises as ``find_library`` does, and EngineError if it is broken."""
        name = find_library(library)
        try:
            module: ModuleType = importlib.import_module(name)
        except Exception as error:  # NVIDIA's packages raise anything from ImportError to RuntimeError
            raise EngineError(
                f"NVIDIA's package {name} is installed and cannot be imported: {type(error).__name__}: {error}; "
                f'reinstall it: pip install --force-reinstall "trtlab[{_EXTRAS[name]}]"'
            ) from error
        missing = [member for member in _NEEDED if not hasattr(module, member)]
        if missing:
            raise EngineError(
                f"the package {name} in {getattr(module, '__file__', '?')} is no builder, it has no "
                f"{', '.join(missing)}: a lean or dispatch runtime, or something else of that name; "
                f'pip install "trtlab[{_EXTRAS[name]}]"'
            )
        version = str(getattr(module, "__version__", ""))
        if not re.fullmatch(r"[0-9]+(\.[0-9A-Za-z]{1,12}){1,5}", version):
            raise EngineError(f"the package {name} does not say its version, but {shown(version)}")
        return cls(name, module, version)

    @property
    def name(self) -> str:
        """Return "TensorRT-RTX 1.4.0.76"."""
        return f"{library_name(self.flavour)} {self.version}"

    @property
    def can_be_weakly_typed(self) -> bool:
        """Whether it chooses precisions by flags; TensorRT 11 and TensorRT-RTX take types from the ONNX alone."""
        return self.flavour == "tensorrt" and hasattr(self.module.BuilderFlag, "FP16")

    @property
    def builds_without_gpu(self) -> bool:
        """Whether plans are compiled for the GPU when they are loaded, and not when they are built."""
        return self.flavour == "tensorrt_rtx"

    @property
    def has_timing_cache(self) -> bool:
        """TensorRT-RTX keeps the functions and does nothing in them."""
        return self.flavour == "tensorrt"

    def flag(self, name: str) -> Any:
        """Return a BuilderFlag. Raises InvalidArgument with those that there are."""
        flag = getattr(self.module.BuilderFlag, name, None)
        members = getattr(self.module.BuilderFlag, "__members__", {})
        if flag is None or (members and name not in members):
            raise InvalidArgument(
                f"{self.name} has no builder flag {name}; it has {', '.join(sorted(members)) or 'others'}"
            )
        return flag

    def targets(self, capabilities: tuple[str, ...]) -> tuple[list[Any], tuple[str, ...]]:
        """Return TensorRT-RTX's targets for these capabilities, and what a plan with them runs on.

        No target is the library's default: one plan for Ampere (8.0) and everything after. That is also the plan for a
        newer GPU that the library has no name for, such as 9.0. Raises InvalidArgument for an older one.
        """
        known = {
            f"{name[2:-1]}.{name[-1]}": member
            for name, member in getattr(getattr(self.module, "ComputeCapability", None), "__members__", {}).items()
            if re.fullmatch(r"SM[0-9]{2,3}", name)
        }
        old = [text for text in capabilities if text not in known and numbers(text) < (8, 0)]
        if old:
            raise InvalidArgument(
                f"compute_capability: {self.name} builds for {', '.join(known) or 'Ampere'} and what is newer, "
                f"not for {', '.join(old)}"
            )
        if not capabilities or any(text not in known for text in capabilities):
            extra = tuple(text for text in capabilities if text in known and numbers(text) < (8, 0))
            if extra:
                raise InvalidArgument(
                    f"compute_capability: {self.name} has no one plan for {', '.join(capabilities)}: build one each"
                )
            return [], ("8.0+",)
        return [known[text] for text in capabilities], capabilities

    def dtype(self, dtype: Any) -> str:
        """Return numpy's name for a DataType."""
        name = getattr(dtype, "name", str(dtype))
        return _DTYPES.get(name, name.lower())
