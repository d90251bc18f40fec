"""The manifest beside a plan: what it says, what it refuses, and what is signed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from trtlab import plans
from trtlab.errors import EngineError, InvalidArgument, NotFound
from trtlab.plans import Manifest, manifest_path
from trtlab.plans.options import Options
from trtlab.plans.signing import Signer
from trtlab.plans.store import write_plan

PLAN = bytes(range(256)) * 40
PEM = serialization.Encoding.PEM


def manifest(**changes: Any) -> Manifest:
    import hashlib

    values: dict[str, Any] = {
        "key": "0" * 64,
        "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
        "plan_size_bytes": len(PLAN),
        "onnx_file": "my model.onnx",
        "onnx_sha256": "1" * 64,
        "onnx_external": (("weights.bin", "2" * 64),),
        "library_flavour": "tensorrt_rtx",
        "library_version": "1.4.0.76",
        "compute_capability": ("9.0",),
        "options": Options.checked(precision="float16", compute_capability="9.0", builder_flags=["STRICT_NANS"]),
        "profiles": ({"data": ((1, 3), (8, 3), (32, 3))},),
        "inputs": (plans.PlanTensor("data", "float32", (None, 3)),),
        "outputs": (plans.PlanTensor("y", "float32", ()),),
        "created": "2030-01-01T00:00:00+00:00",
        "trtlab_version": "0.1.0",
    }
    return Manifest(**{**values, **changes})


@pytest.fixture(autouse=True)
def _no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTLAB_REQUIRE_SIGNED_PLANS", raising=False)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    write_plan(tmp_path / "m.plan", PLAN, manifest())
    return tmp_path / "m.plan"


class Keys:
    """A key pair in PEM files, as OpenSSL writes them."""

    def __init__(self, folder: Path, name: str) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}-private.pem", folder / f"{name}.pem"
        self.private.write_bytes(
            key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        self.public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Keys]:
    return lambda name: Keys(tmp_path, name)


def change(plan: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(manifest_path(plan).read_text())
    edit(value)
    manifest_path(plan).write_text(json.dumps(value))


def test_a_plan_and_its_manifest_are_read_back(plan: Path) -> None:
    data, found = plans.verify(plan, library_flavour="tensorrt_rtx", library_version="1.4.0", compute_capability="9.0")
    assert data == PLAN
    assert found == manifest()
    assert manifest_path(plan).name == "m.plan.json"


def test_a_plan_without_a_manifest_is_handed_out_unless_a_signature_is_required(
    tmp_path: Path, keys: Callable[[str], Keys]
) -> None:
    (tmp_path / "bare.plan").write_bytes(PLAN)
    assert plans.verify(tmp_path / "bare.plan") == (PLAN, None)
    with pytest.raises(InvalidArgument, match="requires a signature and the plan has none"):
        plans.verify(tmp_path / "bare.plan", public_keys=[keys("a").public], require_signature=True)


def test_a_plan_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.plan: no such file"):
        plans.verify(tmp_path / "nowhere.plan")
    with pytest.raises(InvalidArgument, match="this is a folder"):
        plans.verify(tmp_path)


@pytest.mark.parametrize(
    ("data", "word"),
    [(PLAN[:-1], "truncated"), (PLAN + b"!", "changed"), (b"!" + PLAN[1:], "changed"), (b"", "truncated")],
)
def test_a_plan_that_is_not_what_was_built_is_refused(plan: Path, data: bytes, word: str) -> None:
    plan.write_bytes(data)
    with pytest.raises(InvalidArgument) as refused:
        plans.verify(plan)
    message = str(refused.value)
    assert f"{word} since it was built: expected {len(PLAN)} bytes" in message
    assert manifest().plan_sha256 in message
    assert f"got {len(data)} bytes" in message


@pytest.mark.parametrize(
    ("running", "words"),
    [
        ({"library_flavour": "tensorrt"}, "running TensorRT;"),
        ({"library_flavour": "tensorrt_rtx", "library_version": "1.7.1"}, "running TensorRT-RTX 1.7.1;"),
        ({"library_version": "1.4.1"}, "running TensorRT-RTX 1.4.1;"),
        ({"compute_capability": (8, 6)}, "running TensorRT-RTX on 8.6;"),
        ({"library_version": "1.7.1", "compute_capability": "8.6"}, "running TensorRT-RTX 1.7.1 on 8.6;"),
    ],
)
def test_a_plan_of_another_place_says_built_with_running_and_the_command(
    plan: Path, running: dict[str, Any], words: str
) -> None:
    with pytest.raises(EngineError) as refused:
        plans.verify(plan, **running)
    message = str(refused.value)
    assert "built with TensorRT-RTX 1.4.0.76 for compute capability 9.0" in message
    assert words in message
    here = "8.6" if "compute_capability" in running else "9.0"
    assert message.endswith(
        f"rebuild with: trtlab build 'my model.onnx' -o {plan} "
        f"--library {running.get('library_flavour', 'tensorrt_rtx')} --precision float16 --compute-capability {here} "
        "--builder-flag STRICT_NANS --profile data=1x3:8x3:32x3"
    )


@pytest.mark.parametrize(
    ("built", "running", "runs"),
    [
        (("8.0+",), "9.0", True),
        (("8.0+",), "8.0", True),
        (("8.0+",), "12.0", True),
        (("8.0+",), "7.5", False),
        (("8.6", "8.9"), "8.9", True),
        (("8.6",), "8.9", False),
        (("10.0",), "9.0", False),
    ],
)
def test_a_plan_runs_on_what_it_was_built_for(tmp_path: Path, built: tuple[str, ...], running: str, runs: bool) -> None:
    write_plan(tmp_path / "m.plan", PLAN, manifest(compute_capability=built))
    if runs:
        plans.verify(tmp_path / "m.plan", compute_capability=running)
    else:
        with pytest.raises(EngineError, match=f"on {running}"):
            plans.verify(tmp_path / "m.plan", compute_capability=running)


@pytest.mark.parametrize(
    ("running", "runs"), [("10.7.0", True), ("10.9.0", True), ("10.6.9", False), ("11.0.0", False)]
)
def test_a_version_compatible_plan_runs_on_later_releases(tmp_path: Path, running: str, runs: bool) -> None:
    built = manifest(
        library_flavour="tensorrt", library_version="10.7.0.23", options=Options.checked(version_compatible=True)
    )
    write_plan(tmp_path / "m.plan", PLAN, built)
    if runs:
        plans.verify(tmp_path / "m.plan", library_flavour="tensorrt", library_version=running)
    else:
        with pytest.raises(EngineError):
            plans.verify(tmp_path / "m.plan", library_flavour="tensorrt", library_version=running)


@pytest.mark.parametrize(
    "wrong",
    [{"library_flavour": "onnx"}, {"library_version": 1}, {"compute_capability": "nine"}, {"compute_capability": 9.0}],
)
def test_a_wrong_argument_is_refused(plan: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        plans.verify(plan, **wrong)


def test_while_a_plan_is_replaced_no_reader_takes_one_for_the_other(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    other = b"another plan"
    new = manifest(plan_sha256=hashlib.sha256(other).hexdigest(), plan_size_bytes=len(other))
    read_bytes, todo = Path.read_bytes, [lambda: write_plan(plan, other, new)]

    def read(path: Path) -> bytes:
        data = read_bytes(path)
        if path == plan and todo:
            todo.pop()()
        return data

    monkeypatch.setattr(Path, "read_bytes", read)
    assert plans.verify(plan) == (other, new)
    assert not todo


@pytest.mark.parametrize("step", [0, 1])
def test_whoever_dies_while_writing_leaves_no_manifest_that_lies(
    plan: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    replace, steps = os.replace, iter(range(10))

    def die(source: Any, target: Any) -> None:
        if next(steps) == step:
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="no space left"):
        write_plan(plan, b"another plan", manifest())
    assert plans.verify(plan) == (PLAN if step == 0 else b"another plan", None)
    assert [path.name for path in plan.parent.iterdir()] == ["m.plan"]


def test_a_plan_for_several_gpus_must_run_on_each(plan: Path) -> None:
    plans.check_fit(plan, manifest(), "tensorrt_rtx", "1.4.0", ["9.0", (9, 0)])
    with pytest.raises(EngineError, match=r"running TensorRT-RTX 1\.4\.0 on 8\.6; rebuild with"):
        plans.check_fit(plan, manifest(), "tensorrt_rtx", "1.4.0", ["9.0", "8.6"])


def test_a_plan_that_never_stands_still_is_given_up(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes, count = Path.read_bytes, iter(range(1000))

    def read(path: Path) -> bytes:
        data = read_bytes(path)
        if path == plan:
            write_plan(plan, PLAN, manifest(created=f"number {next(count)}"))
        return data

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(EngineError, match="rewritten again and again"):
        plans.verify(plan)


# Signatures.


def sign(plan: Path, key: Path) -> None:
    write_plan(plan, PLAN, manifest().signed(Signer(key)))


def test_a_signature_by_a_trusted_key_is_accepted(plan: Path, keys: Callable[[str], Keys]) -> None:
    mine, other = keys("mine"), keys("other")
    sign(plan, mine.private)
    data, found = plans.verify(plan, public_keys=[other.public, mine.public], require_signature=True)
    assert data == PLAN
    assert found is not None
    assert found.signature is not None
    assert found.signature["algorithm"] == "ed25519"


def test_what_openssl_would_check_is_what_is_signed(plan: Path, keys: Callable[[str], Keys]) -> None:
    mine = keys("mine")
    sign(plan, mine.private)
    value = json.loads(manifest_path(plan).read_text())
    signature = base64.b64decode(value.pop("signature")["value"])
    message = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    public = serialization.load_pem_public_key(mine.public.read_bytes())
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(signature, message)


def test_the_environment_can_require_signatures(
    plan: Path, keys: Callable[[str], Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = keys("mine"), keys("other")
    folder = tmp_path / "trusted"
    folder.mkdir()
    assert not plans.signatures_required()
    monkeypatch.setenv("TRTLAB_REQUIRE_SIGNED_PLANS", str(folder))
    assert plans.signatures_required()
    with pytest.raises(InvalidArgument, match=r"no file \*\.pem"):
        plans.verify(plan)
    for key in (mine, other):
        (folder / key.public.name).write_bytes(key.public.read_bytes())
    with pytest.raises(InvalidArgument, match="TRTLAB_REQUIRE_SIGNED_PLANS requires a signature"):
        plans.verify(plan)
    sign(plan, mine.private)
    plans.verify(plan)
    monkeypatch.setenv("TRTLAB_REQUIRE_SIGNED_PLANS", str(other.public))
    with pytest.raises(InvalidArgument, match="none of the 1 that TRTLAB_REQUIRE_SIGNED_PLANS trusts"):
        plans.verify(plan)
    monkeypatch.setenv("TRTLAB_REQUIRE_SIGNED_PLANS", str(tmp_path / "nowhere.pem"))
    with pytest.raises(NotFound, match=r"nowhere\.pem"):
        plans.verify(plan)


def test_a_changed_manifest_breaks_its_signature(plan: Path, keys: Callable[[str], Keys]) -> None:
    mine = keys("mine")
    sign(plan, mine.private)
    change(plan, lambda value: value.update(compute_capability=["8.0+"]))
    with pytest.raises(InvalidArgument, match="the signature is wrong"):
        plans.verify(plan, public_keys=[mine.public])


def test_another_plan_under_a_signed_manifest_is_refused(plan: Path, keys: Callable[[str], Keys]) -> None:
    mine = keys("mine")
    sign(plan, mine.private)
    plan.write_bytes(b"!" + PLAN[1:])
    with pytest.raises(InvalidArgument, match="changed since it was built"):
        plans.verify(plan, public_keys=[mine.public], require_signature=True)


def test_a_required_signature_without_a_key_is_a_mistake(plan: Path) -> None:
    with pytest.raises(InvalidArgument, match="no public key is given"):
        plans.verify(plan, require_signature=True)


@pytest.mark.parametrize("wrong", [b"no key", 7, None])
def test_a_key_that_is_none_is_refused(plan: Path, wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        plans.verify(plan, public_keys=[wrong])
    with pytest.raises(InvalidArgument):
        Signer(wrong)


def test_a_key_of_another_kind_is_refused(plan: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidArgument, match="expected an Ed25519 key"):
        Signer(private)
    with pytest.raises(InvalidArgument, match="expected an Ed25519 key"):
        plans.verify(plan, public_keys=public)


# What a stranger may write into a manifest.

WRONG = [
    lambda value: value.update(format="other"),
    lambda value: value.update(format_version=2),
    lambda value: value.update(format_version=True),
    lambda value: value.pop("plan"),
    lambda value: value.update(surplus=1),
    lambda value: value["plan"].update(size_bytes=-1),
    lambda value: value["plan"].update(size_bytes=True),
    lambda value: value["plan"].update(sha256="F" * 64),
    lambda value: value["library"].update(flavour="tensorflow"),
    lambda value: value["library"].update(version="1.4; rm -rf /"),
    lambda value: value.update(compute_capability=[]),
    lambda value: value.update(compute_capability="9.0"),
    lambda value: value["onnx"].update(file="a\nb"),
    lambda value: value["onnx"].update(file="\ud800"),
    lambda value: value["onnx"].update(file="\x1b[2J"),
    lambda value: value["onnx"].update(external=[{"file": "x"}]),
    lambda value: value["options"].update(precision="int3"),
    lambda value: value["options"].update(precision=[]),
    lambda value: value["options"].update(builder_flags=["A B"]),
    lambda value: value["options"].update(builder_flags={"A": 1}),
    lambda value: value["options"].pop("refittable"),
    lambda value: value["profiles"][0]["data"].update(min=[64, 3]),
    lambda value: value["profiles"][0]["data"].update(min=[1]),
    lambda value: value["profiles"][0].update(data=[1]),
    lambda value: value["inputs"][0].update(shape=[1.5]),
    lambda value: value["inputs"][0].update(shape=None),
    lambda value: value.update(signature={}),
    lambda value: value.update(signature={"algorithm": "none", "key": "", "value": ""}),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_manifest_with_a_wrong_value_is_refused(plan: Path, number: int) -> None:
    change(plan, WRONG[number])
    with pytest.raises(InvalidArgument, match=r"m\.plan\.json"):
        plans.verify(plan)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"\xff\xfe",
        b'{"format": "trtlab-plan", "format": "trtlab-plan"}',
        b'{"format": NaN}',
        b" " * (5 * 1024 * 1024),
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(plan: Path, text: bytes) -> None:
    manifest_path(plan).write_bytes(text)
    with pytest.raises(InvalidArgument, match=r"m\.plan\.json"):
        plans.verify(plan)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(item, (*path, key))


PLACES = [path for path in paths(manifest().as_dict()) if path]


@settings(deadline=None)
@given(st.sampled_from(PLACES), json_values)
def test_no_value_anywhere_raises_anything_else(path: tuple[Any, ...], value: Any) -> None:
    whole: Any = manifest().as_dict()
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        found = Manifest.from_json(json.dumps(whole).encode())
    except InvalidArgument:
        return
    # What is accepted can be said again.
    assert Manifest.from_json(found.to_json()) == found
    found.rebuild_command("m.plan")


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 1500))
def test_no_bytes_raise_anything_else(noise: bytes, place: int) -> None:
    text = manifest().to_json()
    for attempt in (noise, text[:place] + noise + text[place:], text[:place] + noise):
        with contextlib.suppress(InvalidArgument):
            Manifest.from_json(attempt)


def test_without_cryptography_signatures_say_what_to_install(python: Callable[..., str], plan: Path) -> None:
    python(
        f"""
import sys
sys.modules["cryptography"] = None
from trtlab import plans
from trtlab.errors import EngineError
from trtlab.plans.signing import Signer
assert plans.verify({str(plan)!r})[1] is not None
for call in (lambda: plans.verify({str(plan)!r}, public_keys=[b"x"]), lambda: Signer(b"x")):
    try:
        call()
    except EngineError as error:
        assert 'pip install "trtlab[sign]"' in str(error), error
    else:
        raise SystemExit("not refused")
"""
    )


def test_a_manifest_is_written_with_the_umask_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_plan(tmp_path / "m.plan", PLAN, manifest())
    finally:
        os.umask(before)
    assert (tmp_path / "m.plan").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.plan", "m.plan.json"]
