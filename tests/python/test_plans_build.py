"""Plans built for real, by TensorRT-RTX on this machine's CPU; and the cache that they go through."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import trtlab
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from trtlab import plans
from trtlab.errors import Cancelled, EngineError, InvalidArgument, NotFound
from trtlab.plans import Built, Manifest, Store, manifest_path

SmallOnnx = Callable[..., Path]
PROFILE = "x=1x...:4x...:8x..."

pytestmark = pytest.mark.usefixtures("plan_cache")


def build(onnx: Any, plan: Any = None, **more: Any) -> Built:
    return trtlab.build(onnx, plan, **{"profiles": PROFILE, "library": "tensorrt_rtx", **more})


def keys(tmp_path: Path, name: str) -> tuple[bytes, bytes]:
    key = ed25519.Ed25519PrivateKey.generate()
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def test_a_plan_is_built_written_and_said_of(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    built = build(small_onnx(), tmp_path / "small.plan")
    assert not built.cached
    assert os.fspath(built) == str(built) == str(tmp_path / "small.plan")
    data, manifest = plans.verify(
        built, library_flavour="tensorrt_rtx", library_version="1.4.0", compute_capability="9.0"
    )
    assert data[:4] == b"vtrt"
    assert manifest == built.manifest
    assert manifest is not None
    assert manifest.library_version == "1.4.0.76"
    assert manifest.compute_capability == ("8.0+",)
    assert manifest.onnx_file == "small.onnx"
    assert manifest.profiles == ({"x": ((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))},)
    assert manifest.inputs == (plans.PlanTensor("x", "float32", (None, 3, 16, 16)),)
    assert manifest.outputs == (plans.PlanTensor("y", "float32", (None, 4)),)
    assert Manifest.from_json(manifest_path(tmp_path / "small.plan").read_bytes()) == manifest


def test_the_same_is_built_once(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    file = small_onnx()
    first = build(file)
    again = build(file.read_bytes(), tmp_path / "other.plan")
    assert (first.cached, again.cached) == (False, True)
    assert Path(again).read_bytes() == Path(first).read_bytes()
    assert build(file, force=True).cached is False


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "tf32"},
        {"precision": "float16"},
        {"profiles": "x=1x...:4x...:9x..."},
        {"profiles": [PROFILE, PROFILE]},
        {"compute_capability": "8.6"},
        {"compute_capability": ["8.6", "8.9"]},
        {"workspace_bytes": 1 << 28},
        {"builder_flags": ["STRICT_NANS"]},
        {"weight_streaming": True},
    ],
)
def test_whatever_changes_the_plan_is_part_of_the_key(small_onnx: SmallOnnx, change: dict[str, Any]) -> None:
    file = small_onnx()
    first = build(file)
    other = build(file, **change)
    assert not other.cached
    assert other.manifest.key != first.manifest.key
    assert build(file, **change).cached


def test_another_weight_is_another_plan(small_onnx: SmallOnnx) -> None:
    assert build(small_onnx(seed=1)).manifest.key != build(small_onnx(seed=2)).manifest.key


def test_external_weights_are_built_in_and_part_of_the_key(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    file = small_onnx(external="weights.bin")
    first = build(file)
    assert first.manifest.onnx_external[0][0] == "weights.bin"
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[2] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    second = build(file)
    assert not second.cached
    assert Path(second).read_bytes() != Path(first).read_bytes()


def test_a_plan_can_be_for_one_gpu_alone(small_onnx: SmallOnnx) -> None:
    built = build(small_onnx(), compute_capability=(8, 6))
    assert built.manifest.compute_capability == ("8.6",)
    plans.verify(built, compute_capability="8.6")
    with pytest.raises(EngineError, match="built with TensorRT-RTX 1.4.0.76 for compute capability 8.6, running"):
        plans.verify(built, compute_capability="8.9")


def test_a_gpu_that_the_library_has_no_name_for_is_served_by_the_plan_for_all(small_onnx: SmallOnnx) -> None:
    assert build(small_onnx(), compute_capability="9.0").manifest.compute_capability == ("8.0+",)


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16", "auto"])
def test_every_precision_is_built_with_the_same_inputs_and_outputs(small_onnx: SmallOnnx, precision: str) -> None:
    manifest = build(small_onnx(), precision=precision).manifest
    assert manifest.options.precision == precision
    assert [tensor.dtype for tensor in (*manifest.inputs, *manifest.outputs)] == ["float32", "float32"]


@pytest.mark.parametrize(
    ("name", "profile", "precision"),
    [
        ("rec", "x=1x3x48x32:4x3x48x320:8x3x48x640", "float32"),
        ("rec", "x=1x3x48x32:4x3x48x320:8x3x48x640", "float16"),
        # Every open axis of this one is called "?".
        ("cls", "x=1x3x48x192:4x3x48x192:8x3x48x192", "float16"),
        ("det", "x=1x3x320x320:1x3x640x640:1x3x960x960", "bfloat16"),
    ],
)
def test_real_models_are_built(model_file: Callable[[str], Path], name: str, profile: str, precision: str) -> None:
    built = build(model_file(name), profiles=profile, precision=precision)
    assert built.manifest.plan_size_bytes > 1 << 20
    assert [tensor.name for tensor in built.manifest.inputs] == ["x"]
    assert not [line for line in built.warnings if "Empty initializer" in line]


# What is refused.


def test_open_axes_without_a_profile_are_refused(small_onnx: SmallOnnx) -> None:
    with pytest.raises(InvalidArgument, match=r"x\[Nx3x16x16\].*trtlab build .*--profile"):
        build(small_onnx(), profiles=None)
    assert build(small_onnx("fixed.onnx", batch=2), profiles=None).manifest.profiles == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"precision": "float8"}, "QuantizeLinear"),
        ({"precision": None}, "precision"),
        ({"library": "tensorflow"}, "library: expected one of tensorrt, tensorrt_rtx"),
        ({"strongly_typed": False}, "TensorRT-RTX 1.4.0.76 takes the type of every tensor from the ONNX file"),
        ({"strongly_typed": 1}, "strongly_typed"),
        ({"timing_cache": "t.cache"}, "measures nothing when it builds"),
        ({"hardware_compatible": True}, "leave it out"),
        ({"hardware_compatible": "all"}, "hardware_compatible"),
        ({"hardware_compatible": []}, "hardware_compatible"),
        ({"compute_capability": "5.0"}, "not for 5.0"),
        ({"compute_capability": ["7.5", "9.0"]}, "build one each"),
        ({"compute_capability": "nine"}, "expected one like '9.0'"),
        ({"workspace_bytes": -1}, "workspace_bytes"),
        ({"workspace_bytes": True}, "workspace_bytes"),
        ({"builder_flags": ["NO_SUCH"]}, "has no builder flag NO_SUCH; it has BF16"),
        ({"builder_flags": 7}, "builder_flags"),
        ({"refittable": "yes"}, "refittable"),
        ({"on_progress": 7}, "on_progress"),
        ({"cache_dir": 7}, "cache_dir"),
        ({"plan": 7}, "plan"),
    ],
)
def test_a_wrong_argument_is_refused(small_onnx: SmallOnnx, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        build(small_onnx(), **arguments)
    assert words in str(refused.value)


def test_a_plan_goes_into_a_folder_that_exists(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        build(small_onnx(), tmp_path / "nowhere" / "m.plan")
    with pytest.raises(InvalidArgument, match="is a folder"):
        build(small_onnx(), tmp_path)
    with pytest.raises(NotFound, match="no such file"):
        build(tmp_path / "nowhere.onnx")


def test_the_parsers_refusal_names_the_node(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    model = onnx.load(small_onnx())
    model.graph.node[2].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(EngineError) as refused:
        build(tmp_path / "bad.onnx")
    message = str(refused.value)
    assert "bad.onnx: the parser of TensorRT-RTX 1.4.0.76 cannot take it" in message
    assert "node 'relu' (Frobnicate, number 2): Op type Frobnicate is not supported" in message


def test_the_builders_refusal_has_its_words(small_onnx: SmallOnnx) -> None:
    with pytest.raises(EngineError) as refused:
        # Weak typing's flag is no flag of this library's networks.
        build(small_onnx(), builder_flags=["FP16"])
    message = str(refused.value)
    assert "small.onnx: TensorRT-RTX 1.4.0.76 built no plan" in message
    assert "the builder's log:\nerror: " in message
    assert "FP16" in message
    assert "catchCudaError" not in message


# Progress, and how a build ends early.


def test_progress_rises_to_the_end(small_onnx: SmallOnnx) -> None:
    seen: list[plans.Progress] = []
    build(small_onnx(), on_progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.2
    assert fractions[-1] > 0.9
    assert len({progress.phase for progress in seen}) > 3
    assert any(progress.parent is not None for progress in seen)


def test_a_build_that_is_called_off_leaves_nothing(small_onnx: SmallOnnx, plan_cache: Path) -> None:
    file = small_onnx()
    with pytest.raises(Cancelled, match="on_progress answered False"):
        build(file, on_progress=lambda progress: progress.fraction < 0.3)
    assert Store().info().plans == ()
    assert not build(file).cached


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_what_a_callback_raises_comes_out_when_the_build_has_stopped(
    small_onnx: SmallOnnx, error: BaseException
) -> None:
    def fail(progress: plans.Progress) -> None:
        raise error

    file = small_onnx()
    with pytest.raises(type(error)) as raised:
        build(file, on_progress=fail)
    assert raised.value is error
    assert not build(file).cached


# The cache.


def test_threads_and_processes_that_want_the_same_build_it_once(
    small_onnx: SmallOnnx, plan_cache: Path, tmp_path: Path
) -> None:
    file = small_onnx()
    code = f"""
import trtlab
print(trtlab.build({str(file)!r}, profiles={PROFILE!r}, library="tensorrt_rtx").cached)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(f"{build(file).cached}\n")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found += [process.communicate(timeout=100)[0] for process in processes]
    assert sorted(found) == ["False\n", "True\n", "True\n", "True\n"]


def test_what_a_dead_process_left_is_swept_and_its_lock_is_free(small_onnx: SmallOnnx, plan_cache: Path) -> None:
    file = small_onnx()
    key = build(file).manifest.key
    code = f"""
import os
from trtlab.plans import Store
store = Store()
with store.locked({key!r}):
    open(store.plan_path({key!r}).parent / ".model.plan.half", "wb").close()
    os._exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    assert not build(file, force=True).cached
    assert sorted(path.name for path in Store().plan_path(key).parent.iterdir()) == ["model.plan", "model.plan.json"]


@pytest.mark.parametrize("damage", ["cut", "flip", "manifest", "no manifest", "foreign"])
def test_a_damaged_plan_in_the_cache_is_built_again(small_onnx: SmallOnnx, damage: str) -> None:
    file = small_onnx()
    plan = Path(build(file))
    data = plan.read_bytes()
    if damage == "cut":
        plan.write_bytes(data[:-1])
    elif damage == "flip":
        plan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "manifest":
        manifest_path(plan).write_text("{")
    elif damage == "no manifest":
        manifest_path(plan).unlink()
    else:
        other = Path(build(small_onnx("other.onnx", seed=9)))
        shutil.copy(other, plan)
        shutil.copy(manifest_path(other), manifest_path(plan))
    assert not build(file).cached
    plans.verify(plan)
    assert build(file).cached


def test_beyond_the_limit_the_plan_used_longest_ago_goes(
    small_onnx: SmallOnnx, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [small_onnx(f"{seed}.onnx", seed=seed) for seed in range(3)]
    first, second = (build(file) for file in files[:2])
    for age, built in ((200, first), (100, second)):
        stamp = Path(built).stat().st_mtime - age
        os.utime(manifest_path(Path(built)), (stamp, stamp))
    build(files[0])  # used just now
    monkeypatch.setenv("TRTLAB_CACHE_LIMIT", str(int(2.5 * first.manifest.plan_size_bytes)))
    third = build(files[2])
    assert [Path(built).exists() for built in (first, second, third)] == [True, False, True]
    monkeypatch.setenv("TRTLAB_CACHE_LIMIT", "0")
    build(files[1])
    assert [key for key, _ in Store().info().plans] == [second.manifest.key]
    monkeypatch.setenv("TRTLAB_CACHE_LIMIT", "much")
    with pytest.raises(InvalidArgument, match="TRTLAB_CACHE_LIMIT: expected a number of bytes"):
        build(files[1])


def test_a_plan_that_is_being_built_is_not_evicted(small_onnx: SmallOnnx, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(small_onnx("a.onnx", seed=1))
    monkeypatch.setenv("TRTLAB_CACHE_LIMIT", "0")
    with Store().locked(first.manifest.key):
        build(small_onnx("b.onnx", seed=2))
        assert Path(first).exists()
    build(small_onnx("c.onnx", seed=3))
    assert not Path(first).exists()


def test_the_cache_tells_what_it_holds_and_can_be_emptied(small_onnx: SmallOnnx, plan_cache: Path) -> None:
    built = build(small_onnx())
    info = Store().info()
    assert info.folder == plan_cache
    assert info.plans == ((built.manifest.key, built.manifest),)
    assert info.size_bytes > built.manifest.plan_size_bytes
    assert Store().clear() == info
    assert Store().info().plans == ()
    assert not build(small_onnx()).cached


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store("here").folder == Path("here").absolute()
    monkeypatch.delenv("TRTLAB_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store().folder == tmp_path / "trtlab"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store().folder == tmp_path / ".cache" / "trtlab"


def test_a_cache_that_cannot_be_written_says_what_to_set(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="TRTLAB_CACHE_DIR"):
        build(small_onnx(), cache_dir=tmp_path / "file")


def test_others_may_not_read_or_write_the_cache(small_onnx: SmallOnnx, plan_cache: Path) -> None:
    build(small_onnx())
    assert {path.stat().st_mode & 0o077 for path in (plan_cache / "plans", plan_cache / "locks")} == {0}


# Signatures.


def test_a_plan_is_signed_and_the_cache_is_trusted_only_as_far_as_the_key_goes(
    small_onnx: SmallOnnx, tmp_path: Path
) -> None:
    file = small_onnx()
    private, public = keys(tmp_path, "mine")
    other, _ = keys(tmp_path, "other")
    assert not build(file).cached
    # What lies there unsigned may be anybody's: it is not signed unseen, but built.
    signed = build(file, tmp_path / "m.plan", sign_with=private)
    assert not signed.cached
    plans.verify(signed, public_keys=[public], require_signature=True)
    again = build(file, tmp_path / "again.plan", sign_with=private)
    assert again.cached
    plans.verify(again, public_keys=[public], require_signature=True)
    assert not build(file, sign_with=other).cached


def test_the_name_of_the_file_in_a_manifest_is_the_callers(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    build(small_onnx("first.onnx"), sign_with=private)
    second = build(small_onnx("second.onnx"), tmp_path / "m.plan", sign_with=private)
    assert (second.cached, second.manifest.onnx_file) == (True, "second.onnx")
    plans.verify(second, public_keys=[public], require_signature=True)


# For a loader.


def test_a_loader_finds_a_plan_where_there_is_no_builder(
    small_onnx: SmallOnnx, plan_cache: Path, python: Callable[..., str]
) -> None:
    file = small_onnx()
    built = plans.plan_for(
        file, profiles=PROFILE, library="tensorrt_rtx", library_version="1.4.0", compute_capability="9.0"
    )
    program = f"""
import sys
for name in ("tensorrt", "tensorrt_rtx", "onnx", "cryptography"):
    sys.modules[name] = None
from trtlab import plans
from trtlab.errors import EngineError
def find(**more):
    return plans.plan_for({str(file)!r}, profiles={PROFILE!r}, library="tensorrt_rtx", library_version="1.4.0",
                          compute_capability="9.0", **more)
assert str(find()) == {str(built)!r}
assert plans.verify(find(), library_version="1.4.0")[1].library_flavour == "tensorrt_rtx"
try:
    find(precision="tf32")
except EngineError as error:
    assert 'pip install "trtlab[rtx]"' in str(error), error
else:
    raise SystemExit("not refused")
"""
    python(program)


def test_a_builder_of_another_version_than_the_loader_is_refused(small_onnx: SmallOnnx) -> None:
    with pytest.raises(EngineError, match=r'pip install "tensorrt-rtx==1\.7\.1\.\*"'):
        plans.plan_for(small_onnx(), profiles=PROFILE, library="tensorrt_rtx", library_version="1.7.1")


def test_a_loader_may_say_everything_that_build_takes(small_onnx: SmallOnnx) -> None:
    def find(**more: Any) -> Path:
        return plans.plan_for(small_onnx(), profiles=PROFILE, library="tensorrt_rtx", library_version="1.4.0", **more)

    one = find(precision="float16", workspace_bytes=1 << 28, on_progress=lambda progress: None)
    assert find(precision="float16", workspace_bytes=1 << 28) == one
    assert find(precision="float16") != one
    with pytest.raises(InvalidArgument, match="colour"):
        find(colour="red")


def test_importing_trtlab_imports_no_builder(python: Callable[..., str]) -> None:
    python(
        """
import sys, trtlab, trtlab.plans, trtlab.cli.application
assert callable(trtlab.build)
assert not {"tensorrt", "tensorrt_rtx", "onnx", "cryptography"} & set(sys.modules)
"""
    )


def test_json_of_a_manifest_is_for_people_too(small_onnx: SmallOnnx, tmp_path: Path) -> None:
    build(small_onnx(), tmp_path / "m.plan", workspace_bytes=1 << 28)
    value = json.loads(manifest_path(tmp_path / "m.plan").read_text())
    assert value["format"] == "trtlab-plan"
    assert value["library"] == {"flavour": "tensorrt_rtx", "version": "1.4.0.76"}
    assert value["options"]["workspace_bytes"] == 1 << 28
    assert value["profiles"] == [{"x": {"min": [1, 3, 16, 16], "opt": [4, 3, 16, 16], "max": [8, 3, 16, 16]}}]
