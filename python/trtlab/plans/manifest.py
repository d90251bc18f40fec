"""The manifest beside a plan, ``<plan>.json``: what the plan was built from, with what, and for which GPU.

It is read before a byte of the plan reaches TensorRT, and may come from anywhere: sizes, depth and types are checked.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from trtlab.errors import InvalidArgument
from trtlab.manager import shown
from trtlab.plans.options import LIBRARIES, Options
from trtlab.plans.profiles import MOST_EXTENT, Profile, profile_text
from trtlab.plans.signing import Signer, signature_parts

__all__ = ["Manifest", "PlanTensor", "library_name", "manifest_path"]

FORMAT = "trtlab-plan"
FORMAT_VERSION = 1
MOST_BYTES = 4 * 1024 * 1024
_MOST_ITEMS = 10_000
_MOST_NESTED = 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9A-Za-z]{1,12}){1,5}")
_RUNS_ON = re.compile(r"[0-9]{1,2}\.[0-9]\+?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_KEYS = {
    *("format", "format_version", "key", "plan", "onnx", "library", "compute_capability", "options", "profiles"),
    *("inputs", "outputs", "created", "trtlab"),
}
Item = TypeVar("Item")


@dataclass(frozen=True)
class PlanTensor:
    """An input or output as the builder names it; an axis that a profile decides is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Manifest:
    """What is known of a plan. ``to_json`` writes it, ``from_json`` reads it and raises InvalidArgument."""

    key: str
    """What the cache finds the plan by: a hash over everything that the build was given."""
    plan_sha256: str
    plan_size_bytes: int
    onnx_file: str
    onnx_sha256: str
    onnx_external: tuple[tuple[str, str], ...]
    """Files with weights, and the SHA-256 of each."""
    library_flavour: str
    library_version: str
    compute_capability: tuple[str, ...]
    """The GPUs that the plan runs on: "9.0"; "8.0+" is every one from there on."""
    options: Options
    profiles: tuple[Profile, ...]
    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    created: str
    trtlab_version: str
    signature: dict[str, str] | None = None

    def canonical(self) -> bytes:
        """Return the bytes that are signed: the manifest without its signature, keys sorted, no spaces, ASCII."""
        return json.dumps(self._json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def signed(self, signer: Signer) -> Manifest:
        """Return it with a signature."""
        return replace(self, signature=signer.sign(self.canonical()))

    def as_dict(self) -> dict[str, Any]:
        """Return what the file holds."""
        value = self._json()
        if self.signature is not None:
            value["signature"] = dict(self.signature)
        return value

    def to_json(self) -> bytes:
        """Return the file's content."""
        return (json.dumps(self.as_dict(), indent=1) + "\n").encode()

    def _json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key": self.key,
            "plan": {"sha256": self.plan_sha256, "size_bytes": self.plan_size_bytes},
            "onnx": {
                "file": self.onnx_file,
                "sha256": self.onnx_sha256,
                "external": [{"file": file, "sha256": sha256} for file, sha256 in self.onnx_external],
            },
            "library": {"flavour": self.library_flavour, "version": self.library_version},
            "compute_capability": list(self.compute_capability),
            "options": self.options.to_json(),
            "profiles": [
                {
                    name: {"min": list(least), "opt": list(likely), "max": list(most)}
                    for name, (least, likely, most) in profile.items()
                }
                for profile in self.profiles
            ],
            "inputs": [_tensor_json(tensor) for tensor in self.inputs],
            "outputs": [_tensor_json(tensor) for tensor in self.outputs],
            "created": self.created,
            "trtlab": self.trtlab_version,
        }

    @classmethod
    def from_json(cls, data: bytes, what: str = "the manifest") -> Manifest:
        """Read and check a manifest; ``what`` names it in messages. Raises InvalidArgument, and nothing else."""
        if len(data) > MOST_BYTES:
            raise InvalidArgument(f"{what}: at most {MOST_BYTES} bytes, got {len(data)}")
        try:
            value = json.loads(data, object_pairs_hook=_no_twins, parse_float=_no_fraction, parse_constant=_no_fraction)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{what}: not JSON of a manifest: {shown(str(error))}") from None
        try:
            return cls._read(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"{what}: {error}") from None

    @classmethod
    def _read(cls, value: Any) -> Manifest:
        _limit_depth(value, 0)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InvalidArgument(f'expected an object with "format": "{FORMAT}", got {shown(value)}')
        if type(value.get("format_version")) is not int or value["format_version"] != FORMAT_VERSION:
            raise InvalidArgument(
                f"format_version: this trtlab reads {FORMAT_VERSION}, got {shown(value.get('format_version'))}; "
                "build the plan again, or update trtlab"
            )
        _exact(value, "the manifest", _KEYS, {"signature"})
        plan = _exact(value["plan"], "plan", {"sha256", "size_bytes"})
        onnx = _exact(value["onnx"], "onnx", {"file", "sha256", "external"})
        library = _exact(value["library"], "library", {"flavour", "version"})
        if library["flavour"] not in LIBRARIES:
            raise InvalidArgument(f"library.flavour: expected one of {LIBRARIES}, got {shown(library['flavour'])}")
        signature = value.get("signature")
        if signature is not None:
            _exact(signature, "signature", {"algorithm", "key", "value"})
            signature = {name: _text(f"signature.{name}", text) for name, text in signature.items()}
            signature_parts("signature", signature)
        capabilities = tuple(
            _matching("compute_capability", text, _RUNS_ON) for text in _list("compute_capability", value)
        )
        if not capabilities:
            raise InvalidArgument("compute_capability: expected at least one, got none")
        return cls(
            key=_matching("key", value["key"], _SHA256),
            plan_sha256=_matching("plan.sha256", plan["sha256"], _SHA256),
            plan_size_bytes=_int("plan.size_bytes", plan["size_bytes"], 2**63 - 1),
            onnx_file=_text("onnx.file", onnx["file"]),
            onnx_sha256=_matching("onnx.sha256", onnx["sha256"], _SHA256),
            onnx_external=tuple(
                (_text("onnx.external.file", item["file"]), _matching("onnx.external.sha256", item["sha256"], _SHA256))
                for item in (_exact(item, "onnx.external", {"file", "sha256"}) for item in _list("external", onnx))
            ),
            library_flavour=library["flavour"],
            library_version=_matching("library.version", library["version"], _VERSION),
            compute_capability=capabilities,
            options=Options.from_json(value["options"]),
            profiles=tuple(_profile(profile) for profile in _list("profiles", value)),
            inputs=tuple(_tensor("inputs", tensor) for tensor in _list("inputs", value)),
            outputs=tuple(_tensor("outputs", tensor) for tensor in _list("outputs", value)),
            created=_text("created", value["created"]),
            trtlab_version=_text("trtlab", value["trtlab"]),
            signature=signature,
        )

    def built_with(self) -> str:
        """Return "TensorRT-RTX 1.4.0.76 for compute capability 8.0 and above"."""
        capabilities = " or ".join(
            f"{text[:-1]} and above" if text.endswith("+") else text for text in self.compute_capability
        )
        return f"{library_name(self.library_flavour)} {self.library_version} for compute capability {capabilities}"

    def rebuild_command(self, plan: Path | str, flavour: str | None = None, capability: str | None = None) -> str:
        """Return the command line that builds this plan again, for another library or another GPU if they are given.

        The manifest knows the name of the ONNX file, not its folder.
        """
        options = self.options
        flavour = flavour or self.library_flavour
        if options.compute_capability and capability is not None:
            options = replace(options, compute_capability=(capability,))
        words = ["trtlab", "build", self.onnx_file, "-o", str(plan), "--library", flavour, *options.arguments()]
        for profile in self.profiles:
            words += ["--profile", profile_text(profile)]
        return shlex.join(words)


def manifest_path(plan: Path) -> Path:
    """Return where the manifest of a plan lies."""
    return plan.with_name(f"{plan.name}.json")


def library_name(flavour: str) -> str:
    """Return what NVIDIA calls it."""
    return "TensorRT-RTX" if flavour == "tensorrt_rtx" else "TensorRT"


def _tensor_json(tensor: PlanTensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _no_fraction(text: str) -> Any:
    raise ValueError(f"a manifest has no number like {text[:20]}")


def _limit_depth(value: Any, depth: int) -> None:
    if depth > _MOST_NESTED:
        raise InvalidArgument(f"nested deeper than {_MOST_NESTED}")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _limit_depth(item, depth + 1)


def _exact(value: Any, what: str, needed: set[str], allowed: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what}: expected an object, got {shown(value)}")
    if missing := needed - set(value):
        raise InvalidArgument(f"{what}: {', '.join(sorted(missing))} missing")
    if foreign := set(value) - needed - (allowed or set()):
        raise InvalidArgument(f"{what}: unknown: {shown(sorted(foreign))}")
    return value


def _list(name: str, value: Mapping[str, Any]) -> list[Any]:
    items = value[name]
    if not isinstance(items, list) or len(items) > _MOST_ITEMS:
        raise InvalidArgument(f"{name}: expected a list of at most {_MOST_ITEMS}, got {shown(items)}")
    return items


def _text(what: str, value: Any) -> str:
    # These are printed, in commands that a person may paste.
    if not isinstance(value, str) or len(value) > 1000 or _CONTROL.search(value):
        raise InvalidArgument(
            f"{what}: expected text of at most 1000 characters, none of them control, got {shown(value)}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: expected text that UTF-8 can encode, got {shown(value)}") from None
    return value


def _matching(what: str, value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidArgument(f"{what}: expected text like {pattern.pattern}, got {shown(value)}")
    return value


def _int(what: str, value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidArgument(f"{what}: expected an int from 0 to {most}, got {shown(value)}")
    return value


def _items(what: str, value: Any, read: Callable[[Any], Item]) -> tuple[Item, ...]:
    if not isinstance(value, list) or len(value) > 64:
        raise InvalidArgument(f"{what}: expected a list of at most 64, got {shown(value)}")
    return tuple(read(item) for item in value)


def _tensor(what: str, value: Any) -> PlanTensor:
    tensor = _exact(value, what, {"name", "dtype", "shape"})
    return PlanTensor(
        _text(f"{what}.name", tensor["name"]),
        _text(f"{what}.dtype", tensor["dtype"]),
        _items(
            f"{what}.shape",
            tensor["shape"],
            lambda size: None if size is None else _int(f"{what}.shape", size, 2**63 - 1),
        ),
    )


def _profile(value: Any) -> Profile:
    if not isinstance(value, dict):
        raise InvalidArgument(f"profiles: expected objects, got {shown(value)}")
    profile: Profile = {}
    for name, ranges in value.items():
        where = f"profiles: {shown(name)}"
        _text("profiles: the name of an input", name)
        _exact(ranges, where, {"min", "opt", "max"})
        least, likely, most = (
            _items(where, ranges[word], lambda size: _int("profiles: an axis", size, MOST_EXTENT))
            for word in ("min", "opt", "max")
        )
        if not len(least) == len(likely) == len(most) or any(
            not low <= middle <= high for low, middle, high in zip(least, likely, most, strict=True)
        ):
            raise InvalidArgument(f"{where}: expected min <= opt <= max on every axis, got {shown(ranges)}")
        profile[name] = (least, likely, most)
    return profile
