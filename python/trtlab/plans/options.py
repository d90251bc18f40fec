"""What is asked of the builder beside the model: checked once, written into the manifest and the cache key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from trtlab.errors import InvalidArgument
from trtlab.manager import check_int, shown
from trtlab.plans.capability import parse_capability

__all__ = ["HARDWARE_LEVELS", "LIBRARIES", "PRECISIONS", "Options"]

LIBRARIES = ("tensorrt", "tensorrt_rtx")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "auto")
HARDWARE_LEVELS = ("none", "ampere_plus", "same_compute_capability")
_MOST_FLAGS = 64
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Options:
    """How a plan is built; see ``trtlab.build`` for what each means.

    ``compute_capability`` is as asked for: empty for the library's own choice. ``strongly_typed`` None: the library's.
    """

    precision: str = "float32"
    compute_capability: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    strongly_typed: bool | None = None
    refittable: bool = False
    weight_streaming: bool = False
    version_compatible: bool = False
    hardware_compatible: str = "none"
    builder_flags: tuple[str, ...] = ()

    @classmethod
    def checked(
        cls,
        *,
        precision: Any = "float32",
        compute_capability: Any = None,
        workspace_bytes: Any = None,
        strongly_typed: Any = None,
        refittable: Any = False,
        weight_streaming: Any = False,
        version_compatible: Any = False,
        hardware_compatible: Any = False,
        builder_flags: Any = (),
    ) -> Options:
        """Return them, or raise InvalidArgument naming the one that is wrong."""
        if precision not in PRECISIONS:
            raise InvalidArgument(
                f"precision: expected one of {', '.join(PRECISIONS)}, got {shown(precision)}; 8-bit and 4-bit models "
                "say so themselves, by the QuantizeLinear and DequantizeLinear nodes of the ONNX file"
            )
        if workspace_bytes is not None:
            if isinstance(workspace_bytes, bool):
                raise InvalidArgument(f"workspace_bytes: expected an int, got {workspace_bytes}")
            check_int("workspace_bytes", workspace_bytes, 0)
        if strongly_typed is not None:
            _check_flag("strongly_typed", strongly_typed, " or None")
        for name, value in (
            ("refittable", refittable),
            ("weight_streaming", weight_streaming),
            ("version_compatible", version_compatible),
        ):
            _check_flag(name, value)
        level = hardware_compatible
        if level is None or isinstance(level, bool):
            level = "ampere_plus" if level else "none"
        if not isinstance(level, str) or level not in HARDWARE_LEVELS:
            raise InvalidArgument(
                f"hardware_compatible: expected True, False or one of {', '.join(HARDWARE_LEVELS)}, "
                f"got {shown(hardware_compatible)}"
            )
        return cls(
            precision=precision,
            compute_capability=_capabilities(compute_capability),
            workspace_bytes=workspace_bytes,
            strongly_typed=strongly_typed,
            refittable=refittable,
            weight_streaming=weight_streaming,
            version_compatible=version_compatible,
            hardware_compatible=level,
            builder_flags=_flags(builder_flags),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a dict of what JSON knows."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any) -> Options:
        """Return what ``to_json`` made. Raises InvalidArgument for anything else."""
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or set(value) != set(names):
            raise InvalidArgument(f"options: expected an object with {', '.join(names)}")
        return cls.checked(**value)

    def arguments(self) -> list[str]:
        """Return the options of ``trtlab build`` that say the same."""
        words = ["--precision", self.precision]
        if self.compute_capability:
            words += ["--compute-capability", ",".join(self.compute_capability)]
        if self.workspace_bytes is not None:
            words += ["--workspace", str(self.workspace_bytes)]
        if self.strongly_typed is not None:
            words.append("--strongly-typed" if self.strongly_typed else "--weakly-typed")
        for name in ("refittable", "weight_streaming", "version_compatible"):
            if getattr(self, name):
                words.append(f"--{name.replace('_', '-')}")
        if self.hardware_compatible != "none":
            words += ["--hardware-compatible", self.hardware_compatible.replace("_", "-")]
        for flag in self.builder_flags:
            words += ["--builder-flag", flag]
        return words


def _check_flag(what: str, value: Any, more: str = "") -> None:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what}: expected True or False{more}, got {shown(value)}")


def _capabilities(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    # (9, 0) is one capability; a list is several.
    if isinstance(value, str):
        items: list[Any] = [item.strip() for item in value.split(",")] if value else []
    elif isinstance(value, tuple) and len(value) == 2 and all(type(item) is int for item in value):
        items = [value]
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        items = [value]
    if len(items) > _MOST_FLAGS:
        raise InvalidArgument(f"compute_capability: at most {_MOST_FLAGS}, got {len(items)}")
    return tuple(sorted({parse_capability(item) for item in items}, key=lambda text: [int(n) for n in text.split(".")]))


def _flags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise InvalidArgument(f"builder_flags: expected names of BuilderFlag, got {shown(value)}")
    flags = set()
    for flag in value:
        if not isinstance(flag, str) or not _FLAG.fullmatch(flag):
            raise InvalidArgument(f"builder_flags: expected names like 'STRICT_NANS', got {shown(flag)}")
        flags.add(flag.upper())
        if len(flags) > _MOST_FLAGS:
            raise InvalidArgument(f"builder_flags: at most {_MOST_FLAGS}")
    return tuple(sorted(flags))
