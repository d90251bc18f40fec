"""``trtlab.build``: from an ONNX file to a plan in the cache, or wherever it is wanted."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtlab._version import __version__
from trtlab.errors import EngineError, InvalidArgument, NotFound
from trtlab.manager import shown
from trtlab.plans.builder import Job, build_plan, is_strongly_typed
from trtlab.plans.capability import Gpu, gpu
from trtlab.plans.checking import same_version
from trtlab.plans.listening import Listener, Progress
from trtlab.plans.manifest import Manifest, library_name
from trtlab.plans.onnx_file import OnnxFile, read_onnx
from trtlab.plans.options import Options
from trtlab.plans.precision import converted
from trtlab.plans.profiles import Profile, read_profiles, resolve
from trtlab.plans.signing import Signer
from trtlab.plans.store import Store, write_plan
from trtlab.plans.toolchain import Toolchain

__all__ = ["Built", "build", "plan_for"]

# Goes up when the same arguments give another plan than before.
_RECIPE = 1
_VERSION_NUMBERS = 3


@dataclass(frozen=True)
class Built(os.PathLike[str]):
    """A plan that lies in a file; can be used wherever a path can.

    ``cached``: it was there already. ``warnings``: what the builder said, empty if it was not asked.
    """

    path: Path
    manifest: Manifest
    cached: bool
    warnings: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def build(
    onnx: str | os.PathLike[str] | bytes,
    plan: str | os.PathLike[str] | None = None,
    *,
    profiles: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
    precision: str = "float32",
    library: str | None = None,
    device: str | int | None = None,
    compute_capability: str | tuple[int, int] | Sequence[str] | None = None,
    workspace_bytes: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    strongly_typed: bool | None = None,
    refittable: bool = False,
    weight_streaming: bool = False,
    version_compatible: bool = False,
    hardware_compatible: bool | str = False,
    builder_flags: Iterable[str] = (),
    on_progress: Callable[[Progress], object] | None = None,
    sign_with: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Built:
    """Build a TensorRT plan from an ONNX file with NVIDIA's own builder, or take it from the cache.

    ``plan``: where to write it, with its manifest ``<plan>.json`` beside it; None leaves it in the cache.
    ``profiles``: shapes of the inputs as least, most likely and greatest, "data=1x3x224x224:8x3x224x224:32x3x224x224"
    ("1x...:8x...:32x..." repeats the model's own axes) or ``{"data": (min, opt, max)}``; a list of such is one profile
    each. Needed if an input has an axis of no fixed size.
    ``precision``: what float32 of the model is computed in. "float32"; "tf32", its faster rounding on the GPU;
    "float16" or "bfloat16", with inputs and outputs as they are; "auto", the library's choice. What the ONNX declares
    in other types stays. Builders that take types from the ONNX alone are given a converted model, which needs the
    package ``onnx``. 8 bits come from QuantizeLinear nodes in the ONNX.
    ``library``: "tensorrt", "tensorrt_rtx", or None for whichever is installed, TensorRT first. TensorRT builds on and
    for the GPU ``device`` ("cuda:0"). TensorRT-RTX needs no GPU: its plans run on compute capability 8.0 and above, or
    on ``compute_capability`` ("8.6", or a list) alone, and are compiled when they are loaded; with ``device``, on that
    GPU's.
    ``workspace_bytes``: most scratch memory of a layer. ``timing_cache``: a file of what TensorRT measured; None is
    one in the cache. ``strongly_typed``: None is True except where TensorRT 10 makes float16 or bfloat16 by itself.
    ``hardware_compatible``: True or "ampere_plus", or "same_compute_capability" (TensorRT). ``builder_flags``: names of
    further BuilderFlags.
    ``on_progress`` is called with a ``Progress``, on any thread; if it answers False, the build ends with Cancelled.
    ``sign_with``: an Ed25519 private key in PEM; a plan in the cache is then used only if that key has signed it.
    ``cache_dir``: None is $TRTLAB_CACHE_DIR or ~/.cache/trtlab. ``force``: build even if it is in the cache.

    Raises NotFound (no such file, no such GPU), InvalidArgument (not an ONNX model; a profile, an option), EngineError
    (no builder, no GPU, or the builder's refusal in its words), Cancelled, and what ``on_progress`` raises. Blocks for
    seconds to hours, without the GIL while the builder works, and while another process builds the same.
    """
    target = None if plan is None else _target(plan)
    options = Options.checked(
        precision=precision,
        compute_capability=compute_capability,
        workspace_bytes=workspace_bytes,
        strongly_typed=strongly_typed,
        refittable=refittable,
        weight_streaming=weight_streaming,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        builder_flags=builder_flags,
    )
    if on_progress is not None and not callable(on_progress):
        raise InvalidArgument(f"on_progress: expected a function, got {shown(on_progress)}")
    signer = None if sign_with is None else Signer(sign_with)
    model = read_onnx(onnx)
    resolved = resolve(read_profiles(profiles), model.inputs, model.label)
    toolchain = Toolchain.open(library)
    built_on, options = _place(toolchain.flavour, device, options)
    if timing_cache is not None and not toolchain.has_timing_cache:
        raise InvalidArgument(f"timing_cache: {toolchain.name} measures nothing when it builds; leave it out")
    request = _Request(model, resolved, options, toolchain.flavour, toolchain.version, built_on)
    store = Store(cache_dir)
    timing = None
    if toolchain.has_timing_cache and "DISABLE_TIMING_CACHE" not in options.builder_flags:
        name = f"{toolchain.flavour}-{toolchain.version}-{built_on.capability if built_on else 'any'}"
        timing = store, store.timing_path(name) if timing_cache is None else _target(timing_cache, "timing_cache")
    with store.locked(request.key):
        found = None if force else store.find(request.key)
        if found is not None and signer is not None and not signer.has_signed(found[1].canonical(), found[1].signature):
            found = None
        warnings: tuple[str, ...] = ()
        if found is None:
            listener = Listener(on_progress)
            data, manifest, warnings = _make(toolchain, request, listener, timing)
            if signer is not None:
                manifest = manifest.signed(signer)
            path = store.put(request.key, data, manifest)
        else:
            data, manifest = found
            path = store.plan_path(request.key)
    if target is not None:
        # The name that this caller knows the model by; the cache has the first caller's.
        if manifest.onnx_file != model.file_name and (signer is not None or manifest.signature is None):
            manifest = replace(manifest, onnx_file=model.file_name)
            manifest = manifest if signer is None else manifest.signed(signer)
        try:
            write_plan(target, data, manifest)
        except OSError as error:
            raise EngineError(f"plan {target}: cannot be written: {error}") from error
        path = target
    return Built(path, manifest, found is not None, warnings)


def plan_for(
    onnx: str | os.PathLike[str] | bytes,
    *,
    profiles: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
    precision: str = "float32",
    library: str | None = None,
    library_version: str | None = None,
    device: str | int | None = None,
    compute_capability: str | tuple[int, int] | Sequence[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **more: Any,
) -> Path:
    """Return the plan of an ONNX file in the cache, built now if it is not there; ``more`` is as for ``build``.

    With ``library`` and ``library_version`` ("1.4.0", the one that will load the plan), a plan in the cache is found on
    machines that have no builder; and a builder of another version is refused. Raises and blocks as ``build`` does.
    """
    if library is not None and library_version is not None:
        found = _lookup(
            onnx, profiles, precision, library, library_version, device, compute_capability, cache_dir, more
        )
        if found is not None:
            return found
        toolchain = Toolchain.open(library)
        if not same_version(toolchain.version, library_version):
            package = "tensorrt-rtx" if toolchain.flavour == "tensorrt_rtx" else "tensorrt"
            raise EngineError(
                f"plans are loaded by {library_name(library)} {library_version} and the builder that is installed is "
                f'{toolchain.name}: pip install "{package}=={library_version}.*"'
            )
    return build(
        onnx,
        profiles=profiles,
        precision=precision,
        library=library,
        device=device,
        compute_capability=compute_capability,
        cache_dir=cache_dir,
        **more,
    ).path


_NO_OPTIONS = ("timing_cache", "on_progress", "sign_with", "force")


def _lookup(
    onnx: Any,
    profiles: Any,
    precision: str,
    library: str,
    version: str,
    device: Any,
    capability: Any,
    cache_dir: Any,
    more: dict[str, Any],
) -> Path | None:
    if more.get("force") or more.get("sign_with") is not None:
        return None
    try:
        options = Options.checked(
            precision=precision,
            compute_capability=capability,
            **{name: value for name, value in more.items() if name not in _NO_OPTIONS},
        )
    except TypeError as error:
        raise InvalidArgument(f"plan_for: {error}") from None
    model = read_onnx(onnx)
    resolved = resolve(read_profiles(profiles), model.inputs, model.label)
    built_on, options = _place(library, device, options)
    store = Store(cache_dir)
    request = _Request(model, resolved, options, library, version, built_on)
    return store.plan_path(request.key) if store.find(request.key) is not None else None


@dataclass(frozen=True)
class _Request:
    """Everything that decides what a plan is, with the key that it is found by."""

    model: OnnxFile
    profiles: list[Profile]
    options: Options
    flavour: str
    version: str
    gpu: Gpu | None

    @property
    def key(self) -> str:
        """Return a hash over all of it, in hex."""
        what = {
            "recipe": _RECIPE,
            "onnx": self.model.sha256,
            "external": self.model.external_sha256,
            "library": self.flavour,
            # As many numbers as a running library says of itself.
            "version": self.version.split(".")[:_VERSION_NUMBERS],
            "capability": None if self.gpu is None else self.gpu.capability,
            "gpu": None if self.gpu is None else self.gpu.name,
            "options": self.options.to_json(),
            "profiles": self.profiles,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _place(flavour: str, device: Any, options: Options) -> tuple[Gpu | None, Options]:
    """Return the GPU to build on, None if none is needed, and the options with the capability that follows."""
    if flavour == "tensorrt_rtx":
        if device is None:
            return None, options
        here = gpu(device).capability
        if options.compute_capability and options.compute_capability != (here,):
            raise InvalidArgument(
                f"device and compute_capability: {device} is of {here}, got {', '.join(options.compute_capability)}; "
                "give one of the two"
            )
        return None, replace(options, compute_capability=(here,))
    try:
        found = gpu(device)
    except (EngineError, NotFound) as error:
        raise type(error)(
            f"{library_name(flavour)} measures kernels on the GPU that it builds for and builds nowhere else "
            f'({error}); library="tensorrt_rtx" builds without one'
        ) from None
    if options.compute_capability not in ((), (found.capability,)):
        raise InvalidArgument(
            f"compute_capability: {library_name(flavour)} builds for the GPU that it runs on, {found.name} of "
            f"{found.capability}, not for {', '.join(options.compute_capability)}"
        )
    return found, replace(options, compute_capability=())


def _make(
    toolchain: Toolchain, request: _Request, listener: Listener, timing: Any
) -> tuple[Any, Manifest, tuple[str, ...]]:
    model, options = request.model, request.options
    data, path = model.data, model.path
    if options.precision in ("float16", "bfloat16") and is_strongly_typed(toolchain, options) and model.has_float32:
        data, path = converted(model, options.precision), None
    job = Job(model.label, data, path, request.profiles, options, request.gpu)
    plan = build_plan(toolchain, job, listener, timing)
    view = memoryview(plan.data)
    manifest = Manifest(
        key=request.key,
        plan_sha256=hashlib.sha256(view).hexdigest(),
        plan_size_bytes=view.nbytes,
        onnx_file=model.file_name,
        onnx_sha256=model.sha256,
        onnx_external=model.external_sha256,
        library_flavour=toolchain.flavour,
        library_version=toolchain.version,
        compute_capability=plan.runs_on,
        options=options,
        profiles=tuple(request.profiles),
        inputs=plan.inputs,
        outputs=plan.outputs,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        trtlab_version=__version__,
    )
    # As strict as whoever reads it: a name that no manifest may hold is refused here, not when the plan is loaded.
    Manifest.from_json(manifest.to_json(), f"{model.label}: the manifest")
    return view, manifest, plan.warnings


def _target(path: Any, what: str = "plan") -> Path:
    try:
        text = os.fspath(path)
    except TypeError:
        raise InvalidArgument(f"{what}: expected a path, got a {type(path).__name__}") from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgument(f"{what}: expected a path as str without NUL, got {shown(text)}")
    target = Path(text)
    if target.is_dir():
        raise InvalidArgument(f"{what}: {target} is a folder: give the name of a file")
    if not target.parent.is_dir():
        raise InvalidArgument(f"{what}: the folder {target.parent} does not exist")
    return target
