"""What stands between a plan in a file and TensorRT: nothing unchecked is handed over."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trtlab.errors import EngineError, InvalidArgument, NotFound
from trtlab.manager import shown
from trtlab.plans.capability import parse_capability, runs_on
from trtlab.plans.manifest import MOST_BYTES, Manifest, library_name, manifest_path
from trtlab.plans.options import LIBRARIES
from trtlab.plans.signing import Trust, trust

__all__ = ["check_fit", "read_vouched", "same_version", "verify"]

_TRIES = 20


def verify(
    path: str | os.PathLike[str],
    *,
    library_flavour: str | None = None,
    library_version: str | None = None,
    compute_capability: str | tuple[int, int] | None = None,
    public_keys: Iterable[Any] = (),
    require_signature: bool = False,
) -> tuple[bytes, Manifest | None]:
    """Read a plan once, check it against its manifest, and return its bytes with the manifest.

    Give to TensorRT these bytes and no others. ``library_flavour`` ("tensorrt" or "tensorrt_rtx"), ``library_version``
    ("1.4.0") and ``compute_capability`` ("9.0") say what is running; None is not checked. ``public_keys``: paths of PEM
    files, their bytes, or keys of ``cryptography``; a signature that is there must be by one of them. The environment
    variable TRTLAB_REQUIRE_SIGNED_PLANS (a PEM file or a folder of such) adds keys and requires a signature.

    A plan without a manifest is returned with None, unless a signature is required: TensorRT then sees a file that
    nobody vouches for, and a plan is native code.

    Raises NotFound (no such file), InvalidArgument (truncated, changed, manifest damaged, refused by the policy),
    EngineError (another library, version or GPU; the message has the command that rebuilds). Blocks while it reads.
    """
    plan = _path(path)
    if library_flavour is not None and library_flavour not in LIBRARIES:
        raise InvalidArgument(f"library_flavour: expected one of {', '.join(LIBRARIES)}, got {shown(library_flavour)}")
    if library_version is not None and not isinstance(library_version, str):
        raise InvalidArgument(f"library_version: expected one like '1.4.0', got {shown(library_version)}")
    capability = None if compute_capability is None else parse_capability(compute_capability)
    policy = trust(public_keys, require_signature)
    data, manifest = read_vouched(plan, policy)
    if manifest is not None:
        capabilities = () if capability is None else (capability,)
        check_fit(plan, manifest, library_flavour, library_version, capabilities)
    return data, manifest


def read_vouched(plan: Path, policy: Trust) -> tuple[bytes, Manifest | None]:
    """Read plan and manifest, and check them against each other and the policy; raises as ``verify`` does."""
    data, text = _read(plan)
    if text is None:
        policy.check(f"plan {plan}", None, b"")
        return data, None
    return data, _vouched(plan, data, text, policy)


def same_version(built: str, running: str) -> bool:
    """Whether two versions are one, as far as both say it: "1.4.0.76" and "1.4.0" are."""
    pairs = list(zip(_numbers(built), _numbers(running), strict=False))
    return bool(pairs) and all(one == other for one, other in pairs)


def _numbers(version: str) -> list[str]:
    return re.split(r"[.+-]", version)


def _path(path: Any) -> Path:
    try:
        text = os.fspath(path)
    except TypeError:
        raise InvalidArgument(f"plan: expected a path, got a {type(path).__name__}") from None
    if not isinstance(text, str) or "\0" in text:
        raise InvalidArgument(f"plan: expected a path as str without NUL, got {shown(text)}")
    return Path(text)


def _read(plan: Path) -> tuple[bytes, bytes | None]:
    # Whoever replaces a plan removes the manifest first and writes it last (store.py), so a manifest that is the same
    # before and after the plan was read belongs to what was read.
    for _ in range(_TRIES):
        before = _manifest_bytes(plan)
        try:
            data = plan.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"plan {plan}: no such file; trtlab build makes one from an ONNX file") from None
        except IsADirectoryError:
            raise InvalidArgument(f"plan {plan}: expected a file, this is a folder") from None
        if _manifest_bytes(plan) == before:
            return data, before
    raise EngineError(f"plan {plan}: it is being rewritten again and again; load it when that is over")


def _manifest_bytes(plan: Path) -> bytes | None:
    path = manifest_path(plan)
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise InvalidArgument(f"plan {plan}: {path} should be its manifest and is a folder") from None


def _vouched(plan: Path, data: bytes, text: bytes, policy: Trust) -> Manifest:
    manifest = Manifest.from_json(text, f"manifest {manifest_path(plan)}")
    policy.check(f"plan {plan}", manifest.signature, manifest.canonical())
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != manifest.plan_size_bytes or digest != manifest.plan_sha256:
        fault = "truncated" if len(data) < manifest.plan_size_bytes else "changed"
        raise InvalidArgument(
            f"plan {plan}: {fault} since it was built: expected {manifest.plan_size_bytes} bytes with SHA-256 "
            f"{manifest.plan_sha256}, got {len(data)} bytes with {digest}; fetch it again, or rebuild it with: "
            f"{manifest.rebuild_command(plan)}"
        )
    return manifest


def check_fit(
    plan: str | os.PathLike[str],
    manifest: Manifest,
    library_flavour: str | None,
    library_version: str | None,
    compute_capabilities: Sequence[str | tuple[int, int]] = (),
) -> None:
    """Check what a manifest says against the library and all the GPUs that are to run the plan; None is not checked.

    Raises EngineError saying what it was built with, what is running, and the command that rebuilds.
    """
    capabilities = [parse_capability(value) for value in compute_capabilities]
    foreign = [one for one in capabilities if not runs_on(manifest.compute_capability, one)]
    of_library = library_flavour in (None, manifest.library_flavour)
    if of_library and (library_version is None or _runs_version(manifest, library_version)) and not foreign:
        return
    shown_capability = next(iter(foreign or capabilities), None)
    raise EngineError(
        f"plan {plan}: built with {manifest.built_with()}, running "
        f"{library_name(library_flavour or manifest.library_flavour)}"
        f"{'' if library_version is None else f' {library_version}'}"
        f"{'' if shown_capability is None else f' on {shown_capability}'}; "
        f"rebuild with: {manifest.rebuild_command(os.fspath(plan), library_flavour, shown_capability)}"
    )


def _runs_version(manifest: Manifest, running: str) -> bool:
    if same_version(manifest.library_version, running):
        return True
    built, here = _numbers(manifest.library_version)[:3], _numbers(running)[:3]
    # A version-compatible plan runs on every later release of the same major one.
    return (
        manifest.options.version_compatible
        and built[0] == here[0]
        and all(part.isdecimal() and part.isascii() for part in built + here)
        and [int(part) for part in here] >= [int(part) for part in built]
    )
